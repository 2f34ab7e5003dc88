"""driftline: measure, judge and forecast the trajectories of RLVR training runs.

The public names, loaded when first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from driftline._version import __version__

if TYPE_CHECKING:
    from driftline.api import (
        activations,
        advise,
        analyze,
        backtest,
        compare,
        evaluate,
        extrapolate,
        inspect,
        logprobs,
        sweep,
    )
    from driftline.checkpoints.trajectory import Trajectory, open_trajectory
    from driftline.decoding.processor import ExtrapolatedLogits
    from driftline.errors import InputError
    from driftline.linearity.scan import TensorScan, scan
    from driftline.publish import log_results, push, scalars
    from driftline.training.monitor import LinearityCallback
    from driftline.training.regrounding import RegroundingCallback

_HOMES = {
    "ExtrapolatedLogits": "driftline.decoding.processor",
    "InputError": "driftline.errors",
    "LinearityCallback": "driftline.training.monitor",
    "RegroundingCallback": "driftline.training.regrounding",
    "TensorScan": "driftline.linearity.scan",
    "Trajectory": "driftline.checkpoints.trajectory",
    "activations": "driftline.api",
    "advise": "driftline.api",
    "analyze": "driftline.api",
    "backtest": "driftline.api",
    "compare": "driftline.api",
    "evaluate": "driftline.api",
    "extrapolate": "driftline.api",
    "inspect": "driftline.api",
    "log_results": "driftline.publish",
    "logprobs": "driftline.api",
    "open_trajectory": "driftline.checkpoints.trajectory",
    "push": "driftline.publish",
    "scalars": "driftline.publish",
    "scan": "driftline.linearity.scan",
    "sweep": "driftline.api",
}

__all__ = [
    "ExtrapolatedLogits",
    "InputError",
    "LinearityCallback",
    "RegroundingCallback",
    "TensorScan",
    "Trajectory",
    "__version__",
    "activations",
    "advise",
    "analyze",
    "backtest",
    "compare",
    "evaluate",
    "extrapolate",
    "inspect",
    "log_results",
    "logprobs",
    "open_trajectory",
    "push",
    "scalars",
    "scan",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'driftline' has no attribute {name!r}")
