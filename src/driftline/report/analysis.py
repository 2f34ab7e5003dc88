"""The page of `driftline analyze`: the verdict, then the evidence for it, each figure beside chance."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from markupsafe import Markup

from driftline.checkpoints.reasons import grouped
from driftline.linearity import statistics
from driftline.linearity.summary import Summary, WeightsSummary
from driftline.report import charts, maps, movement, page, tensors
from driftline.report.page import Steps, made, number, section, table

_CLOCKS = {"step": "training step", "lr": "summed learning rate"}
_INTERVALS = 96  # of the map of cosines, so that the page of a long run stays small


def write(folder: Path, summary: WeightsSummary, *, command: str, next_steps: Steps = ()) -> None:
    """`report.html` from `summary` and the `tensors.parquet` in `folder`; `command` made it, `next_steps` may follow."""
    clock, null = np.array(summary.clock_values), np.array(summary.r2_histogram.null)
    body = [
        verdict(summary),
        page.aid(summary.learning_rate.sentence) if summary.learning_rate else page.NOTHING,
        page.next_steps(next_steps),
        histogram(summary),
        tensors.section_of(
            tensors.read(folder, clock, movement.best_line(summary)[0]),
            summary.steps,
            clock,
            _CLOCKS[summary.clock],
            null / max(null.sum(), 1),
        ),
        growth(summary),
        cosines(summary),
        movement.plane(summary),
        movement.segments(summary),
        movement.jumps(summary),
        skill(summary),
        movement.rounding(summary),
        _left_out(summary),
        how(summary, command),
    ]
    page.write(folder, f"driftline · {summary.run}", body)


def verdict(s: Summary) -> Markup:
    r2, null, d = s.r2, s.null_r2, s.drift
    cards = [
        (number(r2.median), "R², median", f"chance {number(null.median)}"),
        (number(r2.share_above_07), "share with R² above 0.7", f"chance {number(null.share_above_07)}"),
        (
            number(d.increment_cosine),
            "cosine of separated increments",
            f"chance {number(d.null.increment_cosine)}",
        ),
        (number(d.growth_exponent), "growth exponent", f"chance {number(d.null.growth_exponent)}, a line 1"),
        page.persistence_card(s.persistence),
        (
            f"{s.parameters.measured / s.parameters.total:.1%}",
            f"of {s.unit} measured",
            f"{s.parameters.measured:,} of {s.parameters.total:,}",
        ),
    ]
    return page.verdict(s.verdict.sentence, s.verdict.linear, cards)


def histogram(s: Summary) -> Markup:
    shares, chance = (np.array(counts) / max(sum(counts), 1) for counts in (s.r2_histogram.run, s.r2_histogram.null))
    measured, walks = msgspec.to_builtins(s.r2), msgspec.to_builtins(s.null_r2)
    return section(
        f"R² of every {s.unit.removesuffix('s')}, and what chance gives",
        "Bars: this run. Line: a driftless random walk with the same checkpoints and optimizer momentum. Bars above the line "
        "on the right are straightness beyond chance; the dotted line is the paper's threshold of 0.7.",
        charts.r2_histogram(shares, chance),
        table(["", "this run", "driftless walk"], [(name, value, walks[name]) for name, value in measured.items()]),
    )


def growth(s: Summary) -> Markup:
    gram, clock, d = np.array(s.gram), np.array(s.clock_values), s.drift
    elapsed, norms = clock[1:] - clock[0], np.sqrt(np.clip(np.diag(gram)[1:], 0, None))
    moved, error = norms > 0, d.growth_exponent_se
    spread = "" if error is None else f" ± {number(error)}"
    if not moved.any():
        return section("How the update grows", "There is none: nothing that was measured ever changes.", page.NOTHING)
    return section(
        "How the update grows",
        f"A line grows with power 1, a walk with ½ (less where its steps shrink). This run: "
        f"{number(d.growth_exponent)}{spread}; a driftless walk with increments of the same "
        f"lengths: {number(d.null.growth_exponent)}.",
        charts.growth(elapsed[moved], norms[moved], d.growth_exponent, d.null.growth_exponent, _CLOCKS[s.clock]),
        table(["since start", "norm"], [(float(e), float(n)) for e, n in zip(elapsed, norms, strict=True)]),
    )


def cosines(s: Summary) -> Markup:
    gram, d = np.array(s.gram), s.drift
    shown = tensors.thinned(len(gram), _INTERVALS + 1)
    matrix = statistics.cosines(statistics.increments_gram(statistics.rebased(gram, shown)))
    steps = [s.steps[place] for place in shown]
    intervals = [f"{a}–{b}" for a, b in itertools.pairwise(steps)]
    rows = [(interval, *map(float, row)) for interval, row in zip(intervals, matrix, strict=True)]
    return section(
        "Does the run keep its direction?",
        f"Cosine between the changes over any two intervals. Next to the diagonal the optimizer's momentum alone gives "
        f"{number(d.null.adjacent_cosine)}; further than {number(s.optimizer.memory_steps, 0)} steps apart only drift remains: "
        f"mean {number(d.increment_cosine)} over {d.increment_pairs} pairs.",
        maps.cosine_matrix(matrix, intervals),
        table(["interval", *intervals], rows) if len(rows) <= 40 else page.NOTHING,
    )


def skill(s: Summary) -> Markup:
    held, rank = s.skill, s.rank1
    rows: list[tuple[Any, ...]] = [(f"skill of {name}", value, held.null[name]) for name, value in held.methods.items()]
    rows.append(("energy in the first direction", rank.energy, rank.null_energy))
    rows.append(("R² of its coefficient", rank.coefficient_r2, rank.null_coefficient_r2))
    noise = s.drift.noise_to_drift
    rows.append(("noise to drift, per interval", math.inf if noise is None else noise, math.inf))
    return section(
        "Would a straight line have forecast the end of the run?",
        f"Skill against holding the checkpoint of step {held.cutoff}, over the later ones: 1 is perfect, 0 no better than holding, "
        "below 0 worse. Rank-1 figures look high by chance too, as the last column shows.",
        table(["", "this run", "driftless walk"], rows),
    )


def _left_out(s: Summary) -> Markup:
    p = s.parameters
    skipped = grouped({int(step): reason for step, reason in s.skipped.items()})
    rows = [tuple(sentence.split(": ", 1)) for sentence in skipped] + list(s.left_out.items())
    counts = table(
        ["", "parameters"],
        [
            ("in all", p.total),
            ("in tensors that are left out", p.left_out or 0),
            ("changed and measured", p.measured),
            ("never changed", p.unchanged),
            (f"removed by the filter ({s.filter})", p.filtered),
        ],
    )
    reasons = table(["left out", "reason"], rows) if rows else page.aid("Every tensor and checkpoint took part.")
    notes = table(["worth knowing"], [(note,) for note in s.notes]) if s.notes else page.NOTHING
    about = "Every figure above is of the parameters that were measured."
    return section("What was left out", about, counts + reasons + notes)


def how(s: Summary, command: str) -> Markup:
    cost = msgspec.to_builtins(s.cost) if s.cost else {}
    rows = [
        ("driftline", s.driftline),
        ("run", s.run),
        ("steps", ", ".join(map(str, s.steps))),
        ("clock", _CLOCKS[s.clock]),
        ("optimizer momentum", s.optimizer.said),
        ("cost", ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in cost.items())),
    ]
    return made(command, rows)
