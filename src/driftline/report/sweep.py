"""The page of `driftline sweep`: the score of every target, beside the observed checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from driftline.report import charts
from driftline.report.page import asked, made, next_steps, number, options, page, section, table, verdict

_SAME = ("--steps", "--base", "--method", "--from", "--keep", "--per", "--rank", "--clock")  # of sweep and extrapolate
_OF_TASK = (
    "--task",
    "--verifier",
    "--extract",
    "--problems",
    "--samples",
    "--top-p",
    "--top-k",
    "--max-new-tokens",
    "--dtype",
)


def write(folder: Path, record: Any, command: str) -> None:
    """`report.html` from the record of `sweep.json`."""
    body = [
        _verdict(record),
        _next(record, command),
        _scores(record),
        _passes(record),
        _control(record),
        _how(record, command),
    ]
    title = f"driftline sweep · {record['run']}"
    (folder / "report.html").write_text(page(title, *body), encoding="utf-8")


def _verdict(r: dict[str, Any]) -> str:
    best = r["best"]
    low, high = best["difference"]["interval"]
    winner = next(c for c in r["candidates"] if c["step"] == best["step"])
    cards = [
        (f"{best['step']:,}", "step of the best forecast", f"{len(r['candidates'])} tried"),
        (number(winner["avg@k"], 3), f"avg@{r['samples']} of it", _interval(winner)),
        (
            f"{best['difference']['mean']:+.3f}",
            f"over step {best['baseline']:,}",
            f"95 %: {low:+.3f} to {high:+.3f}, p = {best['p_value_corrected']:.2g}",
        ),
    ]
    return verdict(r["sentence"], best["better"], cards)


def _next(r: dict[str, Any], command: str) -> str:
    run, out = asked(command)
    best, early, late = r["best"], r["early"], r["late"]
    again = [*options(command, *_OF_TASK), "--seed", str(r["seed"] + 1)]
    if best["better"] and r["space"] == "logits":
        alpha = (best["step"] - early["step"]) / (late["step"] - early["step"])
        why = "Confirm it on other samples, and on problems that did not choose it where the task makes its own."
        pair = ["--early", early["folder"], "--late", late["folder"], "--alpha", f"{alpha:.6g}"]
        same = ["--temperature", f"{r['temperature']:g}"]
        words = ["driftline", "evaluate", *pair, *again, *same, "--out", f"{out}-confirm"]
    elif best["better"]:
        why = "Write the best forecast as a model; then confirm it on problems that did not choose it."
        same, step = options(command, *_SAME), str(best["step"])
        words = ["driftline", "extrapolate", *run, "--to", step, *same, "--out", f"{out}-step-{step}"]
    elif best["surer"]:
        why = "Sample the last checkpoint colder instead; confirm that on other samples."
        cold = ["--temperature", f"{r['control']['late_matched']['temperature']:.3g}"]
        words = ["driftline", "evaluate", late["folder"], *again, *cold, "--out", f"{out}-colder"]
    else:
        why = "No forecast beat the observed checkpoints. See how far ahead this run can be forecast at all."
        words = ["driftline", "backtest", *run, "--out", f"{out}-backtest"]
    return next_steps([(why, words)])


def _scores(r: dict[str, Any]) -> str:
    whole = [c for c in r["candidates"] if c["problems"] == r["problems"]]
    dropped = [c for c in r["candidates"] if c["problems"] < r["problems"]]
    figure = go.Figure()
    _series(figure, r["observed"], "observed checkpoints", charts.RUN, "circle", line=True)
    _series(figure, whole, "forecasts, all problems", charts.FORECAST, "diamond")
    _series(figure, dropped, "forecasts that dropped out", charts.FORECAST, "diamond-open")
    rows = [
        (what, c["step"], c["avg@k"], _interval(c), c["problems"], c["response_tokens"], c["truncated"])
        for what, found in (("observed", r["observed"]), ("forecast", r["candidates"]))
        for c in found
    ]
    rounds = ", then ".join(f"{x['candidates']} on {x['problems']} problems" for x in r["rounds"])
    return section(
        "The score of every target",
        f"Mean share of right answers (avg@{r['samples']}) on {r['task']}, with 95 % intervals over problems. Forecasts were scored "
        f"by successive halving: {rounds}. The best of several is flattered by being chosen: confirm it on other problems.",
        charts.fragment(figure, "scores", "training step", f"avg@{r['samples']}"),
        table(["", "step", "avg@k", "95 %", "problems", "tokens of a response", "share cut off"], rows),
    )


def _series(
    figure: go.Figure, found: Sequence[dict[str, Any]], name: str, colour: str, symbol: str, *, line: bool = False
) -> None:
    if not found:
        return
    y = [c["avg@k"] for c in found]
    figure.add_scatter(
        x=[c["step"] for c in found],
        y=y,
        name=name,
        mode="lines+markers" if line else "markers",
        line={"color": colour},
        marker={"symbol": symbol, "size": 9, "color": colour},
        error_y={
            "type": "data",
            "symmetric": False,
            "thickness": 1,
            "array": [c["interval"][1] - value for c, value in zip(found, y, strict=True)],
            "arrayminus": [value - c["interval"][0] for c, value in zip(found, y, strict=True)],
        },
    )


def _passes(r: dict[str, Any]) -> str:
    ks = list(r["observed"][0]["pass@k"])
    if len(ks) == 1:
        return ""
    rows = [
        (what, c["step"], *(c["pass@k"][k] for k in ks))
        for what, found in (("observed", r["observed"]), ("forecast", r["candidates"]))
        for c in found
    ]
    aid = "The chance that one of k samples is right. A model that is only surer gains at k = 1 and loses at large k."
    return section("With more tries", aid, table(["", "step", *(f"pass@{k}" for k in ks)], rows))


def _control(r: Any) -> str:
    c = r["control"]
    matched, greedy = c["late_matched"], (c["greedy"].items() if "greedy" in c else ())
    best = next(x for x in r["candidates"] if x["step"] == r["best"]["step"])
    rows = [
        ("forecast", r["temperature"], best["avg@k"], _interval(best), c["entropy"]["forecast"]),
        ("late model", r["temperature"], c["late"]["avg@k"], _interval(c["late"]), c["entropy"]["late"]),
        ("late model, as sure", matched["temperature"], matched["avg@k"], _interval(matched), c["entropy"]["matched"]),
        *((f"{name}, greedy", 0.0, score, "–", 0.0) for name, score in greedy),
    ]
    return section(
        "Better, or only surer?",
        f"{c['sentence'][0].upper()}{c['sentence'][1:]}.",
        table(["", "temperature", "avg@k", "95 %", "entropy of a token, nats"], rows),
    )


def _interval(figure: dict[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{number(low, 3)} to {number(high, 3)}"


def _how(r: dict[str, Any], command: str) -> str:
    rows = [
        ("driftline", r["driftline"]),
        ("run", r["run"]),
        ("forecast", f"{r['space']}: {r['forecast']}"),
        (
            "sampling",
            f"temperature {r['temperature']:g}, top-p {r['top_p']:g}, at most {r['max_new_tokens']} tokens, seed {r['seed']}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in r["versions"].items())),
        ("took", f"{r['seconds']:.0f} s"),
    ]
    return made(command, rows)
