"""Writing the forecast model: its layout, the pass over the weights, the recipe and card."""
