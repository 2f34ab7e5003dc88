"""Inside a trainer: a run's linearity in its logs, and jumps ahead. Around one: the same jumps for any command."""
