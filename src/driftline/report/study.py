"""The page of `driftline study`: what was found, then the figure as the paper draws it, and the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from driftline.report import page
from driftline.report.page import Steps
from driftline.report.studies import chance, rates, robustness, speedup, targets, training

if TYPE_CHECKING:
    from driftline.studies.record import StudyRecord

_LARGE = 4  # findings that are each as large as a verdict; of more the first alone is


def write(folder: Path, record: StudyRecord, *, command: str, next_steps: Steps = ()) -> None:
    """`report.html` from the record of `study.json`; `command` made it, `next_steps` may follow."""
    first, rest = record["findings"][:_LARGE], record["findings"][_LARGE:]
    if rest:
        first, rest = record["findings"][:1], record["findings"][1:]
    quick = page.aid("A smoke-sized version: it shows that the study runs, and nothing else.")
    body = [
        *(page.verdict(finding, None) for finding in first),
        page.render("list.html", items=rest) if rest else page.NOTHING,
        quick if record["quick"] else page.NOTHING,
        page.next_steps(next_steps),
        *_DRAWN[record["study"]](record),
        _how(record, command),
    ]
    page.write(folder, f"driftline study · {record['study']}", body)


def _how(r: StudyRecord, command: str) -> Markup:
    took = f"{r['seconds']:.0f} s, runs that were there not counted"
    rows = [
        ("driftline", r["driftline"]),
        ("runs given", ", ".join(r["runs"]) or "trained for this study"),
        ("took", took),
    ]
    return page.made(command, rows)


_DRAWN: Mapping[str, Callable[[Any], list[Markup]]] = {
    "robustness": robustness.robustness,
    "rl-vs-sft": training.rl_vs_sft,
    "noise": training.noise,
    "output-change": targets.output_change,
    "weight-targets": targets.weight_targets,
    "output-targets": targets.output_targets,
    "speedup": speedup.speedup,
    "filter-bias": chance.filter_bias,
    "rank": chance.rank,
    "rates": rates.rates,
}
