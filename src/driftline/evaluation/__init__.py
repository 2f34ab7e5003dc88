"""Tasks, verifiers and metrics; and the model that other harnesses evaluate."""
