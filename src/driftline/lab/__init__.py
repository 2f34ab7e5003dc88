"""The lab: a verifiable task, a small warmed-up base model, and real GRPO on it with TRL."""
