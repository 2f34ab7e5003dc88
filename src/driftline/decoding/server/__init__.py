"""An OpenAI-compatible endpoint over a sampler, in which the requests of many clients are decoded as one batch."""
