"""How straight is a run in what its models put out: log-probs of fixed responses, activations, and where changes come from.

The only part of `linearity` that runs models; torch and transformers load when it does.
"""
