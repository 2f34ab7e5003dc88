"""The page of `driftline study`: what was found, then the figure as the paper draws it, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from driftline.report.page import asked, made, next_steps, page, text, verdict
from driftline.report.studies import chance, robustness, speedup, targets, training

_LARGE = 4  # findings that are each as large as a verdict; of more the first alone is


def write(folder: Path, record: dict[str, Any], command: str) -> None:
    """`report.html` from the record of `study.json`."""
    first, rest = record["findings"][:_LARGE], record["findings"][_LARGE:]
    if rest:
        first, rest = record["findings"][:1], record["findings"][1:]
    findings = "".join(verdict(finding, None) for finding in first)
    listed = f"<ul>{''.join(f'<li>{text(finding)}</li>' for finding in rest)}</ul>" if rest else ""
    quick = '<p class="aid">A smoke-sized version: it shows that the study runs, and nothing else.</p>'
    body = [
        findings,
        listed,
        quick if record["quick"] else "",
        _next(record, command),
        *_DRAWN[record["study"]](record),
        _how(record, command),
    ]
    (folder / "report.html").write_text(page(f"driftline study · {record['study']}", *body), encoding="utf-8")


def _next(r: dict[str, Any], command: str) -> str:
    out = asked(command)[1]
    if r["quick"]:
        why = "Run the study at its full size; runs that were given are measured again."
        given = ["--runs", *r["runs"]] if r["runs"] else []
        return next_steps([(why, ["driftline", "study", r["study"], *given, "--out", f"{out}-full"])])
    if r["runs"]:
        return ""
    why = "Measure runs of your own in the same way: put their folders in place of RUN."
    return next_steps([(why, ["driftline", "study", r["study"], "--runs", "RUN", "--out", f"{out}-of-mine"])])


def _how(r: dict[str, Any], command: str) -> str:
    took = f"{r['seconds']:.0f} s, runs that were there not counted"
    rows = [
        ("driftline", r["driftline"]),
        ("runs given", ", ".join(r["runs"]) or "trained for this study"),
        ("took", took),
    ]
    return made(command, rows)


_DRAWN = {
    "robustness": robustness.robustness,
    "rl-vs-sft": training.rl_vs_sft,
    "noise": training.noise,
    "output-change": targets.output_change,
    "weight-targets": targets.weight_targets,
    "output-targets": targets.output_targets,
    "speedup": speedup.speedup,
    "filter-bias": chance.filter_bias,
    "rank": chance.rank,
}
