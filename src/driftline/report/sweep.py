"""The page of `driftline sweep`: the score of every candidate, beside the observed checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from driftline.evaluation.records import Figures, Scored, SweepRecord
from driftline.report import charts, page
from driftline.report.page import Steps, made, number, section, table

_TRIED = charts.PALETTE[5]  # checkpoints that are candidates


def write(folder: Path, record: SweepRecord, *, command: str, next_steps: Steps = ()) -> None:
    """`report.html` from the record of `sweep.json`; `command` made it, `next_steps` may follow."""
    body = [
        _verdict(record),
        page.next_steps(next_steps),
        _scores(record),
        _passes(record),
        _control(record),
        _how(record, command),
    ]
    page.write(folder, f"driftline sweep · {record.run}", body)


def _verdict(r: SweepRecord) -> Markup:
    best, winner = r.best, r.winner
    low, high = best.difference.interval
    kinds = {"forecast": len(_of(r, "forecast")), "checkpoint": len(_of(r, "checkpoint"))}
    tried = " and ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in kinds.items() if count)
    cards = [
        (f"{best.step:,}", f"step of the best {best.kind or 'forecast'}", f"{tried} tried"),
        (number(winner.avg_at_k, 3), f"avg@{r.samples} of it", _interval(winner)),
        (
            f"{best.difference.mean:+.3f}",
            f"over step {best.baseline:,}",
            f"95 %: {low:+.3f} to {high:+.3f}, p = {best.p_value_corrected:.2g}",
        ),
    ]
    return page.verdict(r.sentence, best.better, cards)


def _scores(r: SweepRecord) -> Markup:
    traces = _series(r.observed, "observed checkpoints", charts.RUN, "circle", mode="lines+markers")
    for kind, colour, symbol in (("checkpoint", _TRIED, "square"), ("forecast", charts.FORECAST, "diamond")):
        found = _of(r, kind)
        whole, dropped = ([c for c in found if (c.problems == r.problems) is all_seen] for all_seen in (True, False))
        traces += _series(whole, f"{kind}s, all problems", colour, symbol)
        traces += _series(dropped, f"{kind}s that dropped out", colour, f"{symbol}-open")
    rows = [
        (what, c.step, c.avg_at_k, _interval(c), c.problems, c.response_tokens, c.truncated) for what, c in _each(r)
    ]
    rounds = ", then ".join(f"{x.candidates} on {x.problems} problems" for x in r.rounds)
    return section(
        "The score of every candidate",
        f"Mean share of right answers (avg@{r.samples}) on {r.task}, with 95 % intervals over problems. Candidates were scored "
        f"by successive halving: {rounds}. The best of several is flattered by being chosen: confirm it on other problems.",
        charts.fragment(traces, "scores", "training step", f"avg@{r.samples}"),
        table(["", "step", "avg@k", "95 %", "problems", "tokens of a response", "share cut off"], rows),
    )


def _of(r: SweepRecord, kind: str) -> list[Scored]:
    return [c for c in r.candidates if (c.kind or "forecast") == kind]


def _each(r: SweepRecord) -> list[tuple[str, Scored]]:
    """Every model scored, and what it is."""
    return [*(("observed", c) for c in r.observed), *((c.kind or "forecast", c) for c in r.candidates)]


def _series(
    found: Sequence[Scored], name: str, colour: str, symbol: str, *, mode: str = "markers"
) -> list[charts.Trace]:
    """Scores with their intervals; no trace where there are none."""
    y = [c.avg_at_k for c in found]
    above = [c.interval[1] - value for c, value in zip(found, y, strict=True)]
    below = [value - c.interval[0] for c, value in zip(found, y, strict=True)]
    marker = {"symbol": symbol, "size": 9, "color": colour}
    drawn = charts.scatter(
        [c.step for c in found],
        y,
        name,
        mode,
        line={"color": colour},
        marker=marker,
        error_y=charts.spread(above, below),
    )
    return [drawn] if found else []


def _passes(r: SweepRecord) -> Markup:
    ks = list(r.observed[0].pass_at_k)
    if len(ks) == 1:
        return page.NOTHING
    rows = [(what, c.step, *(c.pass_at_k[k] for k in ks)) for what, c in _each(r)]
    aid = "The chance that one of k samples is right. A model that is only surer gains at k = 1 and loses at large k."
    return section("With more tries", aid, table(["", "step", *(f"pass@{k}" for k in ks)], rows))


def _control(r: SweepRecord) -> Markup:
    c, best = r.control, r.winner
    matched, greedy = c.late_matched, c.greedy or {}
    kind = best.kind or "forecast"
    chosen = " A checkpoint is chosen by its score as it was sampled; this says what kind of gain that is."
    rows = [
        (kind, r.temperature, best.avg_at_k, _interval(best), c.entropy.forecast),
        ("late model", r.temperature, c.late.avg_at_k, _interval(c.late), c.entropy.late),
        ("late model, as sure", matched.temperature, matched.avg_at_k, _interval(matched), c.entropy.matched),
        *((f"{kind if name == 'forecast' else name}, greedy", 0.0, score, "–", 0.0) for name, score in greedy.items()),
    ]
    return section(
        "Better, or only surer?",
        f"{c.sentence[0].upper()}{c.sentence[1:]}.{chosen * (kind == 'checkpoint')}",
        table(["", "temperature", "avg@k", "95 %", "entropy of a token, nats"], rows),
    )


def _interval(figure: Figures) -> str:
    low, high = figure.interval
    return f"{number(low, 3)} to {number(high, 3)}"


def _how(r: SweepRecord, command: str) -> Markup:
    rows = [
        ("driftline", r.driftline),
        ("run", r.run),
        *([("forecast", f"{r.space}: {r.forecast}")] if r.forecast else []),
        (
            "sampling",
            f"temperature {r.temperature:g}, top-p {r.top_p:g}, at most {r.max_new_tokens} tokens, seed {r.seed}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in r.versions.items())),
        ("took", f"{r.seconds:.0f} s"),
    ]
    return made(command, rows)
