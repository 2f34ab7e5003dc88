"""What to do next after each command, decided from its record: (why, words of the command) each.

`run` are the words that name the run, `same` the options that a next command of the same run repeats, with
their values, and `out` the folder that was written. Words are quoted where they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Steps = list[tuple[str, list[str]]]


def analysis(summary: Mapping[str, Any], run: Sequence[str], same: Sequence[str], out: str) -> Steps:
    """After `driftline analyze`."""
    words = ["driftline", "backtest", *run, *same, "--analysis", out, "--out", f"{out}-backtest"]
    if summary["verdict"]["linear"]:
        why = (
            "See how far ahead this run can be forecast, tested on its own later checkpoints; no weight is read again."
        )
    else:
        why = "A forecast has little to stand on here. This tells whether any beats the last checkpoint, on the run's own later ones."
    return [(why, words)]


def backtest(record: Mapping[str, Any], run: Sequence[str], same: Sequence[str], out: str) -> Steps:
    """After `driftline backtest`: write the forecast that it recommends, or wait for more checkpoints."""
    if not record["recommended_horizon"] > 0:
        why = "No forecast of this run is to be trusted yet. Train on, and ask again with the checkpoints to come."
        return [(why, ["driftline", "watch", *run, "--out", f"{out}-watch"])]
    target = f"{record['steps'][-1] + record['recommended_horizon']:g}"
    why = "Write the model that far ahead; then score it on your task with driftline evaluate."
    method = ["--method", record["best_method"], *same]
    return [(why, ["driftline", "extrapolate", *run, "--to", target, *method, "--out", f"{out}-step-{target}"])]


def outputs(run: Sequence[str], same: Sequence[str], out: str) -> Steps:
    """After `driftline logprobs` and `driftline activations`."""
    why = "Outputs that run straight do not make a forecast of the weights good. Test that on the run's own later checkpoints."
    return [(why, ["driftline", "backtest", *run, *same, "--out", f"{out}-backtest"])]


def comparison(record: Mapping[str, Any]) -> Steps:
    """After `driftline compare`: the most predictable of the runs that drift, where one does."""
    of_weights = [row for row in record["rows"] if row["linear"] and row["kind"] == "weights"]
    if not of_weights:
        return []
    best = max(of_weights, key=lambda row: row["skill"]["damped"] or 0.0)
    why = "See how far ahead the most predictable of them can be forecast."
    result = best["folder"]
    return [(why, ["driftline", "backtest", best["run"], "--analysis", result, "--out", f"{result}-backtest"])]


def sweep(
    record: Mapping[str, Any], run: Sequence[str], same: Sequence[str], of_task: Sequence[str], out: str
) -> Steps:
    """After `driftline sweep`; `of_task` are the options of the task and its sampling, without seed and temperature."""
    best, early, late = record["best"], record["early"], record["late"]
    again = [*of_task, "--seed", str(record["seed"] + 1)]
    if best["better"] and record["space"] == "logits":
        alpha = (best["step"] - early["step"]) / (late["step"] - early["step"])
        why = "Confirm it on other samples, and on problems that did not choose it where the task makes its own."
        pair = ["--early", early["folder"], "--late", late["folder"], "--alpha", f"{alpha:.6g}"]
        warm = ["--temperature", f"{record['temperature']:g}"]
        words = ["evaluate", *pair, *again, *warm, "--out", f"{out}-confirm"]
    elif best["better"]:
        why = "Write the best forecast as a model; then confirm it on problems that did not choose it."
        step = str(best["step"])
        words = ["extrapolate", *run, "--to", step, *same, "--out", f"{out}-step-{step}"]
    elif best["surer"]:
        why = "Sample the last checkpoint colder instead; confirm that on other samples."
        cold = ["--temperature", f"{record['control']['late_matched']['temperature']:.3g}"]
        words = ["evaluate", late["folder"], *again, *cold, "--out", f"{out}-colder"]
    else:
        why = "No forecast beat the observed checkpoints. See how far ahead this run can be forecast at all."
        words = ["backtest", *run, "--out", f"{out}-backtest"]
    return [(why, ["driftline", *words])]


def study(record: Mapping[str, Any], out: str) -> Steps:
    """After `driftline study`: at its full size, or of runs of one's own; nothing after that."""
    words = ["driftline", "study", record["study"]]
    if record["quick"]:
        given = ["--runs", *record["runs"]] if record["runs"] else []
        why = "Run the study at its full size; runs that were given are measured again."
        return [(why, [*words, *given, "--out", f"{out}-full"])]
    if record["runs"]:
        return []
    why = "Measure runs of your own in the same way: put their folders in place of RUN."
    return [(why, [*words, "--runs", "RUN", "--out", f"{out}-of-mine"])]
