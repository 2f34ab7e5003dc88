"""How does one decode beyond the last checkpoint, without writing a third model? Sampling, the endpoint, a processor."""
