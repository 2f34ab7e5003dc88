"""What every vLLM process runs where driftline is installed: the name of the model of two, and whose engine it is."""

from __future__ import annotations

import os
import signal
import threading
import time

OWNER = "DRIFTLINE_ENGINE_OF"  # the process that ends with its engine, as an environment variable
ARCHITECTURE = "ExtrapolatedForCausalLM"


def register() -> None:
    """Tell vLLM where the model of two is; it is imported where one is asked for only."""
    owner = os.environ.get(OWNER, "")
    if owner not in ("", str(os.getpid())):
        threading.Thread(target=_end_with, args=(int(owner),), daemon=True, name="driftline").start()
    try:
        from vllm import ModelRegistry

        ModelRegistry.register_model(ARCHITECTURE, f"driftline.decoding.vllm.pair:{ARCHITECTURE}")
    except Exception as error:  # an engine that has no use for it must start all the same
        import logging

        logging.getLogger("driftline").warning("extrapolated decoding is not known to this vLLM (%s)", error)


def _end_with(owner: int) -> None:
    """End this process of an engine when its owner is no more: one that is killed outright can end nothing itself."""
    try:
        while True:
            os.kill(owner, 0)
            time.sleep(1)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
