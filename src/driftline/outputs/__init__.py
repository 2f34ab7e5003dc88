"""How straight is a run in what its models put out: log-probs of fixed responses, activations, and where changes come from.

Models are run here; torch and transformers load when one is.
"""
