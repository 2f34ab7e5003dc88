"""How straight is a run that is still being trained? Followed checkpoint by checkpoint."""
