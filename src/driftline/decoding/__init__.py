"""Output-space extrapolation: decode from two checkpoints, beyond the last one, without writing a third."""
