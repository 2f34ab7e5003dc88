"""One self-contained HTML page per analysis: opens offline, asks no network for anything."""
