"""Writing the forecast model: checks, layout, what is done for each tensor, the pass over the weights, recipe and card."""
