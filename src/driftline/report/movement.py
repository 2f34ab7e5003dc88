"""How a run moves, from its Gram alone: its plane with the forecast drawn in, its straight pieces, its jumps."""

from __future__ import annotations

import itertools
import math

import numpy as np
from markupsafe import Markup

from driftline.forecast.extrapolators import method_named
from driftline.linearity.summary import Summary, WeightsSummary
from driftline.report import charts, maps, page
from driftline.report.page import number, section, table

_AHEAD = 0.5  # of the run's length: how far the forecast is drawn where nothing says how far it may be trusted


def plane(s: Summary) -> Markup:
    """The two directions that hold most of the run's movement, the forecast of the last stretch of checkpoints in it."""
    gram, clock = np.array(s.gram), np.array(s.clock_values)
    at, shares = principal_plane(gram)
    method, held_out = best_line(s)
    life = s.persistence.length
    reach = (
        min(life, clock[-1] - clock[0]) if s.clock == "step" and life is not None else _AHEAD * (clock[-1] - clock[0])
    )
    targets = clock[-1] + np.linspace(0, reach, 6)
    seen = np.flatnonzero(np.isin(s.steps, _last_stretch(s)))
    if seen.size < 2:
        return page.NOTHING
    coefficients = method_named(method).extrapolate(clock[seen], gram[np.ix_(seen, seen)], targets)
    ahead = coefficients @ at[seen] + at[-1] - at[seen[-1]]
    ends = ((0, s.steps[0]), (-1, s.steps[-1]))
    traces = [
        charts.scatter(
            at[:, 0],
            at[:, 1],
            "this run",
            "lines+markers",
            line={"color": charts.RUN},
            text=[f"step {step}" for step in s.steps],
            hovertemplate="%{text}<extra></extra>",
        ),
        charts.scatter(
            ahead[:, 0],
            ahead[:, 1],
            f"forecast, {method}",
            "lines+markers",
            line={"color": charts.FORECAST, "dash": "dash"},
            marker={"symbol": "diamond-open", "size": 8},
            text=[f"{target:.4g}" for target in targets],
            hovertemplate="forecast of %{text}<extra></extra>",
        ),
    ]
    arrow = {"showarrow": True, "arrowcolor": charts.GREY, "ax": 0, "ay": -28}
    named = [{"x": at[place, 0], "y": at[place, 1], "text": f"step {step}", **arrow} for place, step in ends]
    labels = [
        f"{which} direction, {share:.0%} of the movement"
        for which, share in zip(("first", "second"), shares, strict=True)
    ]
    rows = [(f"step {step}", *map(float, point)) for step, point in zip(s.steps, at, strict=True)]
    rows += [(f"forecast of {target:.4g}", *map(float, point)) for target, point in zip(targets, ahead, strict=True)]
    return section(
        "The path of the run, and where a line would take it",
        "The plane that holds most of the movement, in the units of the norm; distances are true. A driftless walk draws a "
        "smooth bow here too, so the shape alone says little. The dashed line forecast the end of this run with skill "
        f"{number(held_out)} (0 is no better than holding, below 0 worse).",
        charts.fragment(
            traces, "plane", *labels, height=480, annotations=named, yaxis={"scaleanchor": "x", "scaleratio": 1}
        ),
        table(["", "first direction", "second direction"], rows),
    )


def best_line(s: Summary) -> tuple[str, float]:
    """The straight line that forecast the end of the run best, and its skill."""
    skills = {name: -math.inf if value is None else value for name, value in s.skill.methods.items()}
    return max(skills.items(), key=lambda item: item[1])


def principal_plane(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [T, 2] in the two directions of most variance, and the shares [2] of the variance they hold.

    From the Gram [T, T] of the deltas alone. Signs: the last checkpoint lies to the right of and above the first.
    """
    T = len(gram)
    centring = np.eye(T) - 1 / T
    values, vectors = np.linalg.eigh(centring @ gram @ centring)
    top = np.clip(values[[-1, -2]], 0, None)
    at = vectors[:, [-1, -2]] * np.sqrt(top)
    at = at * np.where(at[-1] < at[0], -1, 1)
    return at, top / max(float(np.clip(values, 0, None).sum()), 1e-300)


def _last_stretch(s: Summary) -> list[int]:
    """Steps since the last jump; all of them in a run without one."""
    if not s.jumps:
        return s.steps
    stretch = s.jumps.stretches[-1]
    return [step for step in s.steps if stretch.from_ <= step <= stretch.to]


def segments(s: Summary) -> Markup:
    """The straight pieces of the run, each with the share of its movement that a line explains."""
    pieces = s.regime.segments
    traces = [
        charts.scatter(
            [piece.from_, piece.to],
            [piece.r2] * 2,
            f"{piece.from_} to {piece.to}",
            "lines+markers",
            line={"color": charts.LINES[place % len(charts.LINES)], "width": 6},
        )
        for place, piece in enumerate(pieces)
    ]
    count = "one straight piece" if len(pieces) == 1 else f"{len(pieces)} straight pieces"
    return section(
        f"The run goes in {count}",
        "Each bar is a stretch of the run that one line describes; its height is the share of the movement that lies on that line. "
        "The run is cut only where it changes speed or direction more than chance would; a falling learning rate is enough. A forecast should rest on the last piece.",
        charts.fragment(
            traces, "segments", "training step", "R² of the update", size="low", yaxis={"range": [0, 1.05]}
        ),
        table(["from step", "to step", "R² of its line"], [(f"{p.from_:,}", f"{p.to:,}", p.r2) for p in pieces]),
    )


def jumps(s: Summary) -> Markup:
    """Of a re-grounded run, where it was projected ahead; empty for any other."""
    if not s.jumps:
        return page.NOTHING
    j = s.jumps
    virtual = dict(zip(s.steps, j.virtual_steps, strict=True))
    traces = []
    for place, stretch in enumerate(j.stretches):
        steps = [step for step in s.steps if stretch.from_ <= step <= stretch.to]
        ahead, line = [virtual[step] for step in steps], {"color": charts.RUN}
        traces.append(charts.scatter(steps, ahead, "trained", "lines+markers", line=line, showlegend=place == 0))
    rows = [(f"{x.from_:,}", f"{x.to:,}", x.checkpoints) for x in j.stretches]
    return section(
        "Where the run was projected ahead instead of trained",
        f"{j.count} jumps, {j.rolled_back} of them taken back. Lines: trained. A gap upward: steps that were projected. {j.sentence}",
        charts.fragment(traces, "jumps", "step of the trainer", "virtual step, trained and projected"),
        table(["trained from step", "to step", "checkpoints"], rows),
    )


def rounding(s: WeightsSummary) -> Markup:
    """How much of the movement the dtype of the checkpoints hides."""
    r, steps = s.rounding, s.steps
    shares = r.unchanged_share_per_interval
    names = [f"{a}–{b}" for a, b in itertools.pairwise(steps)]
    values = r.distinct_values
    rows = [(name, share) for name, share in zip(names, shares, strict=True)]
    rows += [(f"weights with {count} distinct values over the run", n) for count, n in values.items()]
    return section(
        f"What rounding to {' and '.join(r.dtypes)} hides",
        f"Saved weights that are the same to the last bit at both ends of an interval: {r.unchanged_share:.2%} on average. "
        "A weight that trains but does not change was rounded away.",
        charts.fragment(
            [charts.bars(names, shares, "unchanged", charts.RUN)],
            "rounding",
            "interval (steps)",
            "share unchanged",
            size="low",
            xaxis=maps.categories(),
            yaxis={"tickformat": ".0%", "range": [0, max(1.1 * max(shares), 0.05)]},
        ),
        table(["interval", "share unchanged"], rows),
    )
