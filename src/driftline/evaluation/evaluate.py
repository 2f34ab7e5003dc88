"""`driftline evaluate`: samples of a model on a task, scored; or of extrapolated decoding beside its controls.

Writes `evaluation.json` and `samples.jsonl`, a row for every sample of every arm. Arms:

    model                          one model; or, with two checkpoints and alpha,
    forecast, late                 extrapolated decoding and the late model, sampled alike
    forecast-greedy, late-greedy   both at temperature 0
    late-matched                   the late model at the temperature that makes it as sure of its tokens (`sharpening`)

Samples are kept in a hidden folder beside the output while others are still to come, so that the same call
goes on where it stopped.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from driftline._version import __version__
from driftline.decoding.generate import Settings
from driftline.decoding.sampler import Sampler
from driftline.decoding.sources import load_sampler
from driftline.errors import InputError
from driftline.evaluation import sharpening
from driftline.evaluation.metrics import paired_difference
from driftline.evaluation.samples import Samples, figures, kept, right
from driftline.evaluation.tasks import Task
from driftline.files.fingerprint import weights_of
from driftline.files.json import json_text
from driftline.files.lines import Row, write_lines
from driftline.files.output import output_folder, refuse_occupied
from driftline.prompts import read_rows

Array = np.ndarray
Progress = Callable[[str, int], Callable[[int], None]]
Draw = Callable[[str, Sampler, Settings], list[Row]]

MARK = "evaluation.json"
_MATCHED_PROBLEMS = 16  # whose first responses say how sure each model is


def evaluate(
    task: Task,
    out: Path,
    settings: Settings,
    *,
    control: bool = True,
    against: Path | None = None,
    batch_size: int = 16,
    overwrite: bool = False,
    progress: Progress = lambda what, total: lambda rows: None,
    sampler: Sampler | None = None,
) -> dict[str, Any]:
    """Score a model, or two checkpoints' extrapolated logits, and write the result.

    Args:
        settings: the model, or late, early and alpha, and how it is sampled.
        control: of extrapolated decoding: also the late model, both greedy, and the control for sharpening.
        against: the result of another call on the same problems, to compare with.
        progress: called for each arm with its name and its samples; returns what counts them.
        sampler: that of `settings`, if it is loaded already.

    Returns:
        The contents of `evaluation.json`.

    Raises:
        InputError: the request or a model cannot be used; nothing is written but what a second call goes on from.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: it must be at least 1")
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    other = None if against is None else read_evaluation(against, task)
    started = time.monotonic()
    sampler = sampler or load_sampler(settings.late, early=settings.early, alpha=settings.alpha, dtype=settings.dtype)
    models = [source for source in (settings.late, settings.early) if source is not None]
    request = {"task": task.digest, "settings": asdict(settings), "models": weights_of(models)}
    with kept(out, request) as work:

        def draw(arm: str, sampler: Sampler, settings: Settings) -> list[Row]:
            samples = Samples(work / f"{arm}.jsonl", task, settings)
            advance = progress(arm, samples.missing(len(task.problems)))
            return samples.draw(sampler, len(task.problems), batch_size=batch_size, advance=advance)

        main = "model" if sampler.early is None else "forecast"
        arms = {main: draw(main, sampler, settings)}
        record: dict[str, Any] = {
            "driftline": __version__,
            "task": task.name,
            "problems": len(task.problems),
            "samples": settings.samples,
            **figures(arms[main], settings.samples),
            **{name: value for name, value in asdict(settings).items() if name not in ("samples", "keep_prompt_ids")},
            "extraction": task.extraction,
            "verifier": task.verifier,
            "digest": task.digest,
        }
        if control and sampler.early is not None:
            late = Sampler(sampler.late, sampler.tokenizer)
            what = f"extrapolated decoding at alpha {sampler.alpha:g}"
            others, record["control"] = compare_with_late(draw, what, sampler, late, arms[main], task, settings)
            arms |= others
        if other is not None:
            found = paired_difference(right(arms[main], settings.samples).mean(1), other)
            record["against"] = {"folder": str(against), "avg@k": float(other.mean()), "difference": asdict(found)}
        record |= {"versions": versions(), "seconds": time.monotonic() - started}
        with output_folder(out, overwrite=overwrite, mark=MARK) as folder:
            scored = ({"arm": arm, **row} for arm, rows in arms.items() for row in rows)
            write_lines(folder / "samples.jsonl", scored)
            (folder / MARK).write_text(json_text(record))
    return record


def compare_with_late(
    draw: Draw, what: str, forecast: Sampler, late: Sampler, rows: list[Row], task: Task, settings: Settings
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """A forecast beside the late model: sampled alike, greedy, and the late one at the matched temperature.

    Greedy decoding cannot be sharpened: at temperature 0 the late model's own greedy answers are the control.

    Args:
        draw: the samples of an arm of a name, by a sampler and settings.
        what: the forecast, in words; rows: its samples by `settings`.

    Returns:
        The samples of each arm, and what they say: figures, entropies, differences and verdict.
    """
    k = settings.samples
    arms = {"late": draw("late", late, settings)}
    pairs = [
        (task.prompt(row["index"], late.tokenizer).ids, row["response_ids"])
        for drawn in (rows, arms["late"])
        for row in drawn[: _MATCHED_PROBLEMS * k : k]
    ]
    match = sharpening.match(forecast, late, pairs, settings.temperature)
    temperature = float(f"{match.temperature:.4g}")
    record: dict[str, Any] = {"late": figures(arms["late"], k), "entropy": asdict(match)}
    if settings.temperature > 0:
        arms["late-matched"] = draw("late-matched", late, replace(settings, temperature=temperature))
        greedy = replace(settings, temperature=0.0, samples=1)
        arms |= {
            "forecast-greedy": draw("forecast-greedy", forecast, greedy),
            "late-greedy": draw("late-greedy", late, greedy),
        }
        record["greedy"] = {name: float(right(arms[f"{name}-greedy"], 1).mean()) for name in ("forecast", "late")}
    matched = arms.get("late-matched", arms["late"])
    record["late_matched"] = {"temperature": temperature, **figures(matched, k)}
    shares, base, control = (right(drawn, k).mean(1) for drawn in (rows, arms["late"], matched))
    gain, beyond = paired_difference(shares, base), paired_difference(shares, control)
    verdict = sharpening.judge(gain, beyond)
    scores = float(shares.mean()), float(base.mean()), float(control.mean())
    record |= {
        "gain": asdict(gain),
        "beyond_sharpening": asdict(beyond),
        "verdict": verdict,
        "sentence": sharpening.sentence(verdict, what, *scores, temperature),
    }
    return arms, record


def read_evaluation(folder: Path, task: Task) -> Array:
    """Share of right samples of each problem [P], from a result of `evaluate` on the same problems.

    Raises:
        InputError: it is no such result, or of other problems.
    """
    if not (folder / MARK).is_file():
        raise InputError(f"--against {folder} holds no {MARK}: give a folder that driftline evaluate wrote")
    try:
        record = json.loads((folder / MARK).read_text(encoding="utf-8"))
        digest, samples = record["digest"], record["samples"]
        rows = read_rows(folder / "samples.jsonl")
        first = [row for row in rows if row["arm"] == rows[0]["arm"]]
        shares = right(first, samples).mean(1)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--against {folder} is damaged ({error}): evaluate that model again") from error
    if digest != task.digest:
        raise InputError(f"--against {folder} is of other problems than --task {task.name}: both must be the same")
    return shares


def versions() -> dict[str, str]:
    """Of what the figures depend on, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "math-verify", "reasoning-gym", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
