"""driftline: measure, judge and forecast the trajectories of RLVR training runs.

The public names, loaded when first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from driftline._version import __version__

if TYPE_CHECKING:
    from driftline.checkpoints.trajectory import Trajectory, open_trajectory
    from driftline.decoding.processor import ExtrapolatedLogits
    from driftline.errors import InputError
    from driftline.forecast.request import ForecastRequest
    from driftline.linearity.analysis import analyze
    from driftline.linearity.scan import TensorScan, scan
    from driftline.outputs.extrapolate import extrapolate
    from driftline.publish import log_results, push, scalars
    from driftline.training.monitor import LinearityCallback
    from driftline.training.regrounding import RegroundingCallback
    from driftline.writing.storage import Storage

_HOMES = {
    "ExtrapolatedLogits": "driftline.decoding.processor",
    "InputError": "driftline.errors",
    "LinearityCallback": "driftline.training.monitor",
    "RegroundingCallback": "driftline.training.regrounding",
    "Trajectory": "driftline.checkpoints.trajectory",
    "open_trajectory": "driftline.checkpoints.trajectory",
    "TensorScan": "driftline.linearity.scan",
    "scan": "driftline.linearity.scan",
    "analyze": "driftline.linearity.analysis",
    "log_results": "driftline.publish",
    "push": "driftline.publish",
    "scalars": "driftline.publish",
    "extrapolate": "driftline.outputs.extrapolate",
    "ForecastRequest": "driftline.forecast.request",
    "Storage": "driftline.writing.storage",
}

__all__ = [
    "ExtrapolatedLogits",
    "ForecastRequest",
    "InputError",
    "LinearityCallback",
    "RegroundingCallback",
    "Storage",
    "TensorScan",
    "Trajectory",
    "__version__",
    "analyze",
    "extrapolate",
    "log_results",
    "open_trajectory",
    "push",
    "scalars",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'driftline' has no attribute {name!r}")
