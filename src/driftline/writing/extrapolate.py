"""Forecast models on disk: a request is planned, then one streaming pass writes every target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine
from driftline.files.output import output_folder, refuse_occupied
from driftline.files.record import write_record
from driftline.forecast.choose import ChooseBy
from driftline.forecast.plan import make_plan
from driftline.forecast.request import ForecastRequest
from driftline.progress import OpenBar, no_bar
from driftline.writing.record import MARK, Recipe, Recipes
from driftline.writing.storage import Storage
from driftline.writing.write import bytes_read, write


@dataclass(frozen=True)
class WrittenForecasts:
    """The contents of each written model's `driftline.json`, and the sentence that says how they came about."""

    records: list[Recipe]
    sentence: str
    warning: bool


def extrapolate(
    trajectory: Trajectory,
    out: Path | str,
    request: ForecastRequest,
    storage: Storage | None = None,
    *,
    choose_by: ChooseBy | None = None,
    overwrite: bool = False,
    engine: Engine | None = None,
    progress: OpenBar = no_bar,
) -> WrittenForecasts:
    """Write the forecast models: one target into `out` itself, several into `out/checkpoint-STEP`.

    Args:
        choose_by: how `auto` chooses where the request names rollouts.

    Raises:
        InputError: the request or the run cannot be used; nothing is written.
    """
    out, storage = Path(out), storage or Storage()
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    plan = make_plan(trajectory, request, choose_by=choose_by, progress=progress, engine=engine)
    with output_folder(out, overwrite=overwrite, mark=MARK) as folder:
        forecasts = {folder: plan.forecasts[0]}
        if len(plan.forecasts) > 1:
            forecasts = {folder / f"checkpoint-{one.origin.target:.0f}": one for one in plan.forecasts}
            for model in forecasts:
                model.mkdir()
        with progress("writing the forecast", bytes_read(plan.trajectory)) as advance:
            records = write(plan.trajectory, forecasts, storage, engine=engine, progress=advance)
        if len(records) > 1:
            first, targets = records[0], [record.target for record in records]
            shared = Recipes(driftline=first.driftline, method=first.method, steps=first.steps, targets=targets)
            write_record(folder / MARK, shared)
    return WrittenForecasts(records, plan.sentence, plan.warning)
