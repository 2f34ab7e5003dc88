"""What every vLLM process runs where driftline is installed: the name of the model of two, and nothing else."""

from __future__ import annotations

ARCHITECTURE = "ExtrapolatedForCausalLM"


def register() -> None:
    """Tell vLLM where the model of two is; it is imported where one is asked for only."""
    try:
        from vllm import ModelRegistry

        ModelRegistry.register_model(ARCHITECTURE, f"driftline.decoding.vllm.pair:{ARCHITECTURE}")
    except Exception as error:  # an engine that has no use for it must start all the same
        import logging

        logging.getLogger("driftline").warning("extrapolated decoding is not known to this vLLM (%s)", error)
