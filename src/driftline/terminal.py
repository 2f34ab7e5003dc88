"""What commands print: short tables and sentences that fit 80 columns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.checkpoints.configuration import step_text
from driftline.checkpoints.reasons import by_reason, grouped
from driftline.files.record import UNSET, Figure, UnsetType
from driftline.plain import one_line
from driftline.report.page import number

if TYPE_CHECKING:
    from driftline.checkpoints.inspection import InspectedCheckpoint, Inspection
    from driftline.checkpoints.trajectory import Trajectory
    from driftline.decoding.generate import GenerateReport
    from driftline.evaluation.records import EvaluationRecord, SweepRecord
    from driftline.forecast.advice import Advice
    from driftline.forecast.record import BacktestRecord
    from driftline.lab.record import DemoScores, ScoredStep
    from driftline.linearity.comparison import Comparison
    from driftline.linearity.summary import Line, PersistenceFigures, Summary
    from driftline.writing.extrapolate import WrittenForecasts


_MOST_REASONS = 20  # that are printed


def say(sentence: str) -> None:
    """A sentence of the results, or a line of them; what it quotes of a run is made plain."""
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty()).print(one_line(sentence))


def _table(title: str | None, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    from rich.table import Table

    if title:
        say(title)
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index and column else "left", overflow="fold")
    for row in rows:
        table.add_row(*(one_line(str(cell)) for cell in row))
    from rich.console import Console

    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 80).print(table)


def size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 1000 or unit == "TB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"


def report(out: Path) -> None:
    """Where the page is."""
    say(f"report: {out / 'report.html'}")


def inspection(record: Inspection) -> None:
    """A run at a glance."""
    say(f"{record.run}: {len(record.steps)} checkpoints, {', '.join(record.layouts)} layout")
    say(f"{record.parameters:,} parameters in {record.tensors} tensors, {size(record.bytes)} to read\n")
    mixed = len(record.layouts) > 1
    rows = [
        (c.step, *([c.layout] if mixed else []), "+".join(c.dtypes), size(c.bytes), _read_from(c))
        for c in record.checkpoints
    ]
    _table(None, ["step", *(["layout"] if mixed else []), "dtypes", "size", "read from"], rows)
    for sentence in grouped({int(step): reason for step, reason in record.skipped.items()}):
        say(f"skipped: {sentence}")
    for sentence in by_reason(record.unused or {}):
        say(f"not a checkpoint: {sentence}")
    for sentence in _left_out(record.left_out, "--json lists all"):
        say(sentence)
    for problem in record.problems:
        say(f"note: {problem}")


def _left_out(reasons: Mapping[str, str], where: str) -> list[str]:
    """Tensors that take no part, those of one reason together; beyond twenty reasons, where all of them are."""
    sentences = [f"left out: {sentence}" for sentence in by_reason(reasons, most=3)]
    more = [f"left out: tensors for {len(sentences) - _MOST_REASONS} more reasons ({where})"]
    return sentences[:_MOST_REASONS] + (more if len(sentences) > _MOST_REASONS else [])


def _read_from(checkpoint: InspectedCheckpoint) -> str:
    """The checkpoint's folder, and the one in it that is read."""
    source = checkpoint.source or "."
    within = source if "/" in source or "." not in source else "."
    return Path(checkpoint.path).name + (f"/{within}" if within != "." else "")


def unused(trajectory: Trajectory) -> None:
    """What of a run is not used, and what deserves a word about the run as a whole, on standard error."""
    for sentence in grouped(trajectory.skipped):
        aside(f"skipped {sentence}")
    for sentence in by_reason(trajectory.unused):
        aside(f"not a checkpoint: {sentence}")
    for note in trajectory.remarks:
        aside(f"note: {note}")


def analysis(s: Summary) -> None:
    """The verdict, and the figures beside chance."""
    for sentence in _left_out(s.left_out, "the report lists all"):
        aside(sentence)
    r2, null, drift, chance = s.r2, s.null_r2, s.drift, s.drift.null
    figures = [
        ("R² median", r2.median, null.median),
        ("R² mean", r2.mean, null.mean),
        ("share with R² above 0.7", r2.share_above_07, null.share_above_07),
        ("cosine of separated increments", drift.increment_cosine, chance.increment_cosine),
        ("growth exponent (a line: 1)", drift.growth_exponent, chance.growth_exponent),
        ("rank-1 energy", s.rank1.energy, s.rank1.null_energy),
        *((f"skill of {name}", value, s.skill.null[name]) for name, value in s.skill.methods.items()),
    ]
    if s.filter != "none":
        say(
            f"R² is of the weights that pass the filter ({s.filter}), beside walks that pass it; the rest is of all weights."
        )
    counts = s.parameters
    say(f"{counts.measured:,} of {counts.total:,} {s.unit} measured over {len(s.steps)} checkpoints\n")
    rows = [(name, number(value, 3), number(by_chance, 3)) for name, value, by_chance in figures]
    _table(None, ["", "this run", "chance"], rows)
    _persistence(s.persistence)
    say(f"\n{s.verdict.sentence}\n")
    if s.learning_rate:
        say(f"{s.learning_rate.sentence}\n")


def _persistence(life: PersistenceFigures) -> None:
    """How long the run keeps its direction, where that is known."""
    if life.length is not None:
        more = " or more" if life.at_least else ""
        low, high = life.interval
        ends = f"{number(low, 0)} to {'∞' if high is None else number(high, 0)}"
        say(f"\nthe run keeps its direction for {number(life.length, 0)} steps{more} (95 %: {ends})")


def watched(*, quiet: bool) -> Callable[[Line], None]:
    """Prints a line for every checkpoint of a run that is followed; what chance gives is in parentheses."""

    def show(line: Line) -> None:
        norm = "–" if line.update_norm is None or line.update_norm is UNSET else f"{line.update_norm:.3g}"
        parts = [f"step {line.step}: update {norm}"]
        if line.verdict:
            parts += [
                f"cosine {_figure(line.increment_cosine)} ({_figure(line.null_increment_cosine)})",
                f"R² {_figure(line.r2_median)} ({_figure(line.null_r2_median)})",
            ]
        if line.skill_ahead is not UNSET:
            parts.append(f"skill ahead {_figure(line.skill_ahead)}")
        if line.verdict:
            parts.append(line.verdict)
        if not quiet:
            print(", ".join(parts), flush=True)

    return show


def _figure(value: Figure | UnsetType) -> str:
    return number(None if value is UNSET else value, 2)


def aside(sentence: str) -> None:
    """A sentence beside the results, on standard error."""
    print(one_line(f"driftline: {sentence}"), file=sys.stderr, flush=True)


def while_working(*, quiet: bool) -> Callable[[str], None]:
    """Says what is being done, on standard error; nothing if it is to be quiet."""

    def say(sentence: str) -> None:
        if not quiet:
            print(one_line(sentence), file=sys.stderr, flush=True)

    return say


def training_step(steps: int, *, quiet: bool) -> Callable[[int, dict[str, float]], None]:
    """Prints a line for every tenth step of a lab run; the time left by the pace since the first, which sets up too."""
    first: list[tuple[int, float]] = []

    def show(step: int, logged: dict[str, float]) -> None:
        now = time.monotonic()
        since, begun = (first or [(step, now)])[0]
        first[:] = [(since, begun)]
        if not quiet and (step % 10 == 0 or step in (since, steps)):
            left = (
                f", about {(now - begun) / (step - since) * (steps - step):.0f} s left" if since < step < steps else ""
            )
            what = "reward" if "reward" in logged else "loss"
            print(f"step {step}/{steps}: {what} {logged[what]:.3f}{left}", file=sys.stderr, flush=True)

    return show


def accuracy(rows: Sequence[ScoredStep]) -> None:
    """Held-out accuracy by checkpoint, as a table with a bar; where answers may be direct, the share that is worked out."""
    worked = [] if not rows or rows[0].worked is UNSET else ["worked out"]
    table = [
        (
            row.step,
            f"{row.greedy:.3f}",
            f"{row.sampled:.3f}",
            *(f"{row.worked:.3f}" for _ in worked),
            "█" * round(30 * row.sampled),
        )
        for row in rows
    ]
    _table("accuracy on held-out problems", ["step", "greedy", "sampled", *worked, ""], table)


def comparison(record: Comparison) -> None:
    """A row for each result."""
    rows = [
        (
            row.folder,
            "yes" if row.linear else "no",
            number(row.r2.median),
            number(row.null_r2.median),
            number(row.increment_cosine),
            number(row.null_increment_cosine),
        )
        for row in record.rows
    ]
    _table(None, ["", "drift", "R² median", "chance", "cosine", "chance"], rows)


def backtest(record: BacktestRecord) -> None:
    """Skill of each method near and far, and how far ahead to trust it."""
    shown = {name: found for name, found in record.pooled.items() if name != "hold" and found}
    full = next(iter(shown.values()), [])
    told = [full[0].horizon, full[(len(full) - 1) // 2].horizon] if full else []
    rows = []
    for name, found in shown.items():
        skills = {one.horizon: number(one.skill, 2) for one in found}
        horizon = number(float(record.horizons[name]), 0)
        rows.append((name, *(skills.get(one, "") for one in told), horizon))
    heads = [f"{step_text(one)} steps" for one in told]
    _table(None, ["skill against holding", *heads, "good to"], rows)
    _persistence(record.persistence)
    say(f"\n{record.sentence}\n")
    if record.learning_rate:
        say(f"{record.learning_rate.sentence}\n")


def advice(record: Advice) -> None:
    """What to do, and why, line by line; then what the run does not tell."""
    said = f", momentum {record.optimizer.said}" if record.optimizer else ""
    say(f"{record.run}: {len(record.steps)} checkpoints to step {record.steps[-1]}{said}")
    for line in record.lines:
        say(f"\n{line.about}: {line.do}")
        say(f"  {line.why}")
    if record.not_told:
        say("\nnot told:")
    for one in record.not_told:
        say(f"  {one.about}: {one.why}")


def forecast(written: WrittenForecasts, out: Path) -> None:
    """What was written, why, and what rounding lost."""
    if written.warning:
        aside(f"note: {written.sentence}")
    else:
        say(written.sentence)
    carried = written.records[0].carried or [] if written.records else []
    if carried:
        few = ", ".join(carried[:3]) + (", ..." if len(carried) > 3 else "")
        aside(f"note: {len(carried)} tensors that the base alone has are copied from it ({few})")
    for recipe in written.records:
        folder = out if len(written.records) == 1 else out / f"checkpoint-{recipe.target:.0f}"
        kept = f"{len(recipe.kept)} tensors kept" + (f", {len(recipe.copied)} copied" if recipe.copied else "")
        what = "score" if recipe.method == "alpharl" else "step"
        asked = f" (asked for {step_text(recipe.target)})" if recipe.goal != recipe.target else ""
        goal = f"{recipe.goal:g}" if what == "score" else step_text(recipe.goal)
        say(f"{what} {goal}{asked}: {folder}, {kept}")
        loss = recipe.rounding_loss
        lost = f"rounding lost {loss:.2%} of the update" if loss else "nothing was lost to rounding"
        if recipe.method == "hold":  # there is no update to lose some of
            lost = "the last checkpoint"
        say(f"  {lost} ({recipe.written_dtype}, {recipe.rounding})")


def scores(record: DemoScores) -> None:
    """Accuracy of trained and forecast models side by side."""
    table = [(row.model, f"{row.greedy:.3f}", f"{row.sampled:.3f}") for row in record.rows]
    title = f"accuracy on {record.problems} held-out problems, {record.samples} samples each"
    _table(title, ["model", "greedy", "sampled"], table)
    for control in (record.hindsight, record.forecast):
        if control:
            say(f"\n{control.sentence}")


def samples(report: GenerateReport, out: Path) -> None:
    """How many completions are in the file, how fast they came, and how many drafts were kept."""
    say(f"{out}: {report.rows:,} completions, {report.new_rows:,} of them new")
    if report.new_tokens:
        speed = report.new_tokens / report.seconds
        say(f"{report.new_tokens:,} tokens in {report.seconds:.1f} s, {speed:.0f} a second")
    if report.acceptance == report.acceptance:
        passes = f"tokens for each pass of the early model: {report.tokens_per_early_pass:.2f}"
        say(f"drafts kept: {report.acceptance:.1%}; {passes}")


def evaluation(r: EvaluationRecord, out: Path) -> None:
    """avg@k with its interval, pass@k, and what the controls say."""
    low, high = r.interval
    say(f"{r.task}: {r.problems} problems, {r.samples} samples each")
    if r.backend:
        say(f"{r.late}, run by {r.endpoint or r.backend}")
    say(f"avg@{r.samples} {r.avg_at_k:.3f} (95 %: {low:.3f} to {high:.3f})")
    say("  ".join(f"pass@{k} {value:.3f}" for k, value in r.pass_at_k.items()))
    if r.control:
        say(f"\n{r.control.sentence}")
    elif r.backend == "http" and r.alpha is not None:
        say("\nno control: whether this is better or only surer is not known, as a server gives no whole distributions")
    if r.against:
        d = r.against.difference
        say(f"\nagainst {r.against.folder} ({r.against.avg_at_k:.3f}): {d.mean:+.3f}, p = {d.p_value:.3g}")
    say(f"\nevaluation: {out / 'evaluation.json'}")


def sweep(r: SweepRecord, out: Path) -> None:
    """The score of every candidate and observed checkpoint, and the best."""
    rows = [
        (kind, number(c.step, 0), c.problems, f"{c.avg_at_k:.3f}", f"{c.interval[0]:.3f} to {c.interval[1]:.3f}")
        for kind, c in [*(("observed", c) for c in r.observed), *((c.kind or "forecast", c) for c in r.candidates)]
    ]
    _table(f"avg@{r.samples} on {r.task}", ["", "step", "problems", "score", "95 %"], rows)
    say(f"\n{r.sentence}\n")
    say(f"report: {out / 'report.html'}")
