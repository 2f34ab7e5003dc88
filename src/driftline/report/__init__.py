"""How is a result shown? One self-contained HTML page for each kind: opens offline, asks no network for anything."""
