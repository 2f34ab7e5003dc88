"""The page of `driftline backtest`: how far ahead this run can be forecast, and by which method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from markupsafe import Markup

from driftline.files.parquet import read_table
from driftline.forecast.record import BacktestRecord, Calibration
from driftline.report import charts, maps, page
from driftline.report.grid import layer_grid
from driftline.report.page import Steps, made, number, section, table
from driftline.report.tensors import thinned

_LOWEST = -1.0  # skill below this is drawn as this: far worse than holding is all the same
_TABLED, _HORIZONS = 1500, 100  # forecasts, at most, that a table lists, and horizons of each method


def write(folder: Path, record: BacktestRecord, *, command: str, next_steps: Steps = ()) -> None:
    """`report.html` from the record of `backtest.json` and `groups.parquet` in `folder`; `command` made it."""
    body = [
        _verdict(record),
        page.aid(record.learning_rate.sentence) if record.learning_rate else page.NOTHING,
        page.next_steps(next_steps),
        _by_horizon(record),
        _by_cutoff(record),
        _by_group(record, folder),
        _calibration(record),
        _how(record, command),
    ]
    page.write(folder, f"driftline backtest · {record.run}", body)


def _verdict(r: BacktestRecord) -> Markup:
    best = r.best_method
    skill = [
        (number(nearest.skill), f"skill of {best}", f"{number(nearest.horizon, 0)} steps ahead, all cutoffs")
        for nearest in r.pooled[best][:1]
    ]
    cards = [
        (number(float(r.recommended_horizon), 0), "recommended horizon, steps", f"by {best}"),
        *skill,
        page.persistence_card(r.persistence),
    ]
    return page.verdict(r.sentence, r.recommended_horizon > 0, cards)


def _by_horizon(r: BacktestRecord) -> Markup:
    pooled = {name: [found[i] for i in thinned(len(found), _HORIZONS)] for name, found in r.pooled.items()}
    drawn = {name: found for name, found in pooled.items() if name not in ("hold", "mean", "ema")}
    rows = [
        (name, p.horizon, p.skill, p.low, p.cutoffs) for name, found in pooled.items() for p in found if name != "hold"
    ]
    return section(
        "How far ahead each method beats holding the last checkpoint",
        "Skill over all cutoffs: 1 is perfect, 0 no better than the last checkpoint seen, below 0 worse. A bar reaches down to "
        "the lower 95 % end; the recommended horizon is where the first method's lower end stays above 0. These are errors in "
        "weights, not scores on a task.",
        charts.skill_by_horizon(drawn, _marked(r), _LOWEST),
        table(["method", "steps ahead", "skill", "lower end", "cutoffs"], rows),
    )


def _marked(r: BacktestRecord) -> float:
    """The recommended horizon on the axis of the chart, which is that of the clock."""
    return r.recommended_horizon if r.clock == "step" else r.horizons.get(r.best_method, 0.0)


def _by_cutoff(r: BacktestRecord) -> Markup:
    scores = [row for row in r.skill if row.method != "hold"]
    cutoffs = sorted({row.cutoff for row in scores})
    targets = sorted({row.cutoff + row.horizon for row in scores})
    names = [r.best_method, *r.pooled]
    grids = {}
    for method in dict.fromkeys(name for name in names if name != "hold"):
        grid = np.full((len(cutoffs), len(targets)), np.nan)
        for row in scores:
            if row.method == method:
                cell = cutoffs.index(row.cutoff), targets.index(row.cutoff + row.horizon)
                grid[cell] = row.skill
        grids[method] = grid
    return section(
        "Every forecast of every later checkpoint",
        "Each row sees the checkpoints up to the step at its left and forecasts the later ones, across. Blue is better than holding "
        "the last one seen, orange worse.",
        _switched(
            "cutoffs", grids, [str(c) for c in cutoffs], [str(t) for t in targets], ("forecast step", "last step seen")
        ),
        table(
            ["method", "cutoff", "steps ahead", "skill", "relative error", "cosine"],
            [(s.method, s.cutoff, s.horizon, s.skill, s.relative_error, s.cosine) for s in scores],
        )
        if len(scores) <= _TABLED
        else page.NOTHING,
    )


def _by_group(r: BacktestRecord, folder: Path) -> Markup:
    """Skill one interval ahead, the mean over cutoffs, of every layer and module."""
    rows = read_table(folder / "groups.parquet").to_pylist()
    first = {
        cutoff: min(row["horizon"] for row in rows if row["cutoff"] == cutoff) for cutoff in {x["cutoff"] for x in rows}
    }
    near = [row for row in rows if row["horizon"] == first[row["cutoff"]] and row["method"] != "hold"]
    places = list(dict.fromkeys((row["layer"], row["module"]) for row in near))
    means = {}
    for method in dict.fromkeys([r.best_method, *r.pooled]):
        found: dict[tuple[int | None, str], list[float]] = {}
        for row in near:
            if row["method"] == method and row["skill"] is not None:
                found.setdefault((row["layer"], row["module"]), []).append(row["skill"])
        if found:
            means[method] = [float(np.nanmean(found[place])) if found.get(place) else np.nan for place in places]
    layers, modules, grids = layer_grid(places, list(means.values()))
    return section(
        "Where in the model forecasts hold",
        "Skill at the next checkpoint, the mean over cutoffs: layers downward, modules across, the rest in the last row.",
        _switched("groups", dict(zip(means, grids, strict=True)), layers, modules, ("module", "layer")),
        table(
            ["layer", "module", *means],
            [
                ("–" if layer is None else str(layer), module, *figure)
                for (layer, module), *figure in zip(places, *means.values(), strict=True)
            ],
        ),
    )


def _switched(
    name: str, grids: dict[str, np.ndarray], rows: list[str], columns: list[str], axes: tuple[str, str]
) -> Markup:
    """A map of skill with a switch between methods."""
    measures = {method: maps.Measure(grid, f"skill of {method}", lowest=_LOWEST) for method, grid in grids.items()}
    views = {name: [measure.restyled() for measure in measures.values()]}
    drawn = maps.heat_map(rows, columns, next(iter(measures.values())), name=name, axes=axes)
    return page.switch(name, "method", list(measures), views) + drawn


def _calibration(r: BacktestRecord) -> Markup:
    c = r.calibration
    aid = (
        f"Over {c.forecasts} back-tests of blup the true squared error was {number(c.mean_ratio)} times the one it expected "
        f"(1 is honest), and {number(c.inside_95)} of them lay inside the band that should hold 0.95."
    )
    return section("Are blup's error bars honest?", f"{aid} {_scaled(c)}", page.NOTHING)


def _scaled(c: Calibration) -> str:
    """What scaling its errors by the ratios that were verified before came to."""
    if not c.scaled or not c.scaled_inside_90:
        return (
            "They are too few to say what scaling by the ratios at the same horizon would do, so blup gives no error."
        )
    held = f"Scaled by the ratios at the same horizon that were known before, a band of 90 % held {number(c.scaled_inside_90)} of {c.scaled}"
    return (
        f"{held}, so blup's forecasts have an error, scaled so."
        if c.honest
        else f"{held}, not 0.85 to 0.95, so blup gives no error."
    )


def _how(r: BacktestRecord, command: str) -> Markup:
    rows = [
        ("driftline", r.driftline),
        ("run", r.run),
        ("steps", ", ".join(map(str, r.steps))),
        ("clock", r.clock),
        *([("optimizer momentum", r.optimizer.said)] if r.optimizer else []),
        ("after the scan", f"{r.cost.seconds_after_the_scan:.2f} s"),
    ]
    return made(command, rows)
