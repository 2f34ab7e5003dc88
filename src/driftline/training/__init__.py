"""What happens inside a trainer: the monitor, re-grounding as a callback, and the driver around any trainer's command."""
