"""Forecast models, where rollouts may choose among them: what `driftline.extrapolate` is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine
from driftline.forecast.choose import ChooseBy
from driftline.forecast.plan import OpenBar, no_bar
from driftline.forecast.request import ForecastRequest
from driftline.writing import extrapolate as writing
from driftline.writing.extrapolate import WrittenForecasts
from driftline.writing.storage import Storage


def extrapolate(
    trajectory: Trajectory,
    out: Path | str,
    request: ForecastRequest,
    storage: Storage | None = None,
    *,
    overwrite: bool = False,
    engine: Engine | None = None,
    progress: OpenBar = no_bar,
) -> WrittenForecasts:
    """Write the forecast models: one target into `out` itself, several into `out/checkpoint-STEP`.

    Args:
        out: a folder that is empty or absent; it appears when it is complete.
        request: what to forecast.
        storage: how to store it.
        overwrite: replace forecasts that lie in `out`.
        engine: where the work runs; default threads of this process.
        progress: a context manager of (what, total) that gives what advances it.

    Returns:
        The recipes (`records`), a `sentence` that says what was done and why, and whether it is a `warning`.

    Raises:
        InputError: the request or the run cannot be used; nothing is written.
    """
    storage = storage or Storage()
    choose_by = chooser(request, storage, Path(out).absolute().parent)
    return writing.extrapolate(
        trajectory, out, request, storage, choose_by=choose_by, overwrite=overwrite, engine=engine, progress=progress
    )


def chooser(request: ForecastRequest, storage: Storage, scratch: Path) -> ChooseBy | None:
    """How `auto` chooses by the rollouts that the request names; None where it names none.

    Args:
        storage: how the forecasts that are scored are stored; scratch: folder in which one at a time is written.
    """
    if request.rollouts is None:
        return None
    from driftline.outputs import function_space  # what reads rollouts is slow to import

    return partial(function_space.choose, rollouts_file=request.rollouts, storage=storage, scratch=scratch)
