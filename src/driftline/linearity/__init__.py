"""How straight is the run, and does it mean anything: one pass over the weights, statistics, the null."""
