"""How good is a model, or a target? Tasks, scored samples, the control for sharpening, sweeps; and a model for lm-eval."""
