"""Does a horizon from persistence and the useful rate make better models than the one that back-tests have tested?

    python benchmarks/horizon.py score OUT RUN...    accuracy of two-point forecasts at the horizons of every rule, of
                                                     runs made by `driftline train`; goes on where it stopped
    python benchmarks/horizon.py tell OUT            the tests; --keep writes the record of the documentation's table

The rule is

    h = 1/2 s · l² σ² (1 - exp(-s / l)) / G_ss · max(1 - 1/κ, 0),   0 where no drift is found:

half of where the best linear unbiased forecast along the line from the first checkpoint would go, if a drift of
variance σ² per step and persistence l went on for ever, less as κ, the largest useful factor on the rate, comes near 1.
What is compared, and how, was fixed before any of it was scored: docs/studies.md.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from driftline import open_trajectory
from driftline.evaluation.metrics import paired_difference
from driftline.evaluation.records import Difference
from driftline.files.lines import continued, whole_lines
from driftline.forecast.choose import choose
from driftline.forecast.observations import Observations, observe
from driftline.forecast.useful_rate import UsefulRate, useful_rate
from driftline.lab.record import read_run
from driftline.linearity.drift import drift_test
from driftline.studies.rates import MODELS
from tables import ROOT, Column, Table

MODEL = {"plain": MODELS["plain"], "settled": MODELS["through momentum, settled"]}
RULES = (*MODEL, "again")
SHARES = (0.4, 0.6, 0.8, 1.0)  # of a run's steps: where the prefixes end
FEWEST = 8  # checkpoints of a prefix
PROBLEMS, SAMPLES, SEED = 128, 4, 4242  # held-out problems, other ones for each run, of seeds that none was scored on
LOOKED_AT = ("strategy, grpo, qwen2, 5e-06, batch 16, seed 0", "strategy, grpo, qwen2, 1e-05, batch 4, seed 0")

Array = np.ndarray
Point = dict[str, Any]
Key = tuple[str, int, float]  # run, last step, horizon


def target(useful: UsefulRate, seen: float, moved: float) -> float:
    """The rule's horizon in steps, given drift: `seen` steps over which the weights moved by `moved`, squared."""
    length, kappa = useful.persistence.value, useful.factor.value
    whole = length**2 * useful.drift**2 * -math.expm1(-seen / length)
    return 0.5 * seen * whole / moved * max(1 - 1 / kappa, 0.0)


def horizons(observed: Observations) -> Point:
    """The horizon of each rule, None where it has too few checkpoints to tell one, and what they rest on."""
    gram, steps, clock = observed.total, observed.steps, observed.clock
    test, choice = drift_test(gram, steps, clock, observed.beta1), choose(observed)
    point: Point = {
        "first": int(steps[0]),
        "last": int(steps[-1]),
        "checkpoints": int(steps.size),
        "drift": bool(test and test.found),
        "again": float(steps[-1] - steps[0]) if test and test.found else 0.0,
        "today": choice.horizon if choice.method == "two-point" else 0.0,
    }
    for name, model in MODEL.items():
        useful = useful_rate(gram, steps, observed.beta1, **model)
        point[name] = None
        if useful is not None and test is not None:
            point[name] = target(useful, float(steps[-1] - steps[0]), float(gram[-1, -1])) if test.found else 0.0
            point[f"kappa, {name}"] = useful.factor.value
            point[f"persistence, {name}"] = useful.persistence.value
    return point


def training(folder: Path) -> dict[str, Any]:
    """What makes two runs the same training, whatever was saved of it and scored."""
    settings = asdict(read_run(folder).settings)
    for key in ("steps", "save_every", "score_every", "held_out_problems", "micro_batch", "device"):
        settings.pop(key)
    return settings


def distinct(folders: Sequence[Path]) -> dict[str, Path]:
    """A folder of each training by its label: that with the most checkpoints."""
    found: dict[str, tuple[int, Path]] = {}
    for folder in folders:
        one = training(folder)
        label = (
            f"{one['task']}, {one['algorithm']}, {one['model']}, {one['learning_rate']:g}, "
            f"batch {one['prompts_per_step']}, seed {one['seed']}"
        )
        count = len(open_trajectory(folder).steps)
        if count > found.get(label, (0, folder))[0]:
            found[label] = (count, folder)
    return {label: folder for label, (_, folder) in sorted(found.items())}


def ends(steps: Sequence[int]) -> list[int]:
    """Rows of the last checkpoints of the prefixes."""
    at = np.asarray(steps)
    rows = {int(np.abs(at - (at[0] + share * (at[-1] - at[0]))).argmin()) for share in SHARES}
    return sorted(row for row in rows if row + 1 >= FEWEST)


def points_of(label: str, folder: Path) -> list[Point]:
    observed = observe(open_trajectory(folder))
    return [{"run": label} | horizons(observed.only(range(row + 1))) for row in ends(observed.steps.tolist())]


def score(out: Path, folders: Sequence[Path]) -> None:
    """Runs in an order drawn at random, so that those that are done when time is up are not chosen.

    `points.jsonl` has the horizons of every point, written before any of it is scored, `scores.jsonl` the scores.
    """
    out.mkdir(parents=True, exist_ok=True)
    points, scores = (whole_rows(out / name) for name in ("points.jsonl", "scores.jsonl"))
    done = {(row["run"], row["last"], row["horizon"]) for row in scores}
    known = {label: folder for label, folder in distinct(folders).items() if label not in LOOKED_AT}
    for label in sorted(known, key=lambda label: zlib.crc32(f"{SEED} {label}".encode())):
        mine = [point for point in points if point["run"] == label]
        if not mine:
            mine = points_of(label, known[label])
            with continued(out / "points.jsonl") as lines:
                lines.append(mine)
        for point in mine:
            wanted = [h for h in asked(point) if (label, point["last"], h) not in done]
            for row in scored(known[label], point, wanted, zlib.crc32(f"problems of {label}".encode())):
                with continued(out / "scores.jsonl") as lines:
                    lines.append([row])


def whole_rows(file: Path) -> list[Point]:
    return [json.loads(line) for line in whole_lines(file)]


def asked(point: Point) -> list[float]:
    """The horizons at which a point is scored; none where every rule holds the last checkpoint."""
    told = {point[name] for name in ("today", *RULES) if point[name] is not None}
    return sorted({0.0, *told}) if any(told) else []


def scored(folder: Path, point: Point, wanted: Sequence[float], seed: int) -> Iterator[Point]:
    """A row of each horizon: accuracy of last + h / s (last - first), norm layers as in the last."""
    if not wanted:
        return
    import torch

    from driftline.lab.model import load
    from driftline.lab.scoring import accuracy
    from driftline.lab.tasks import lab_task
    from driftline.writing.storage import NORM_LAYERS, matches

    torch.set_num_threads(1)
    settings = read_run(folder).settings
    first, _ = load(folder / f"checkpoint-{point['first']}")
    last, tokenizer = load(folder / f"checkpoint-{point['last']}")
    task = lab_task(settings.task).held_out(PROBLEMS, seed)
    before = dict(first.named_parameters())
    held = {name: weight.detach().clone() for name, weight in last.named_parameters()}
    for horizon in wanted:
        alpha = horizon / (point["last"] - point["first"])
        with torch.no_grad():
            for name, weight in last.named_parameters():
                step = 0.0 if matches(name, NORM_LAYERS) else alpha
                weight.copy_(held[name] + step * (held[name] - before[name]))
        found = accuracy(last, tokenizer, task, seed=seed, samples=SAMPLES, temperature=settings.temperature)
        yield {"run": point["run"], "last": point["last"], "horizon": horizon} | {
            "sampled": found.sampled,
            "greedy": found.greedy,
        }


def kind(label: str) -> str:
    """What a run stands for; each run is of one kind."""
    task, algorithm, model, rate, batch = label.split(", ")[:5]
    if task != "strategy":
        return f"{task} lab"
    if model != "qwen2":
        return "other families"
    if algorithm != "grpo":
        return "SFT" if algorithm == "sft" else "other algorithms"
    if float(rate) != 1e-5:
        return "rates above 1e-5" if float(rate) > 1e-5 else "rates below 1e-5"
    return "batch 2" if batch == "batch 2" else "GRPO, 1e-5, batch 8 to 32"


def gains(
    points: Sequence[Point], scores: Mapping[Key, Point], name: str, by: str, against: str = "today"
) -> dict[str, Array]:
    """Of each run, the mean accuracy at the horizons of a rule and of another, over the points that the rule tells.

    Where both go equally far it is not looked up: their difference is none. `against` may be `held`, horizon 0.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        one, other = point[name], point.get(against, 0.0)
        if one is None or other is None:
            continue
        pair = (0.0, 0.0)
        if one != other:
            keys = [(point["run"], point["last"], horizon) for horizon in (one, other)]
            pair = (scores[keys[0]][by], scores[keys[1]][by])
        found.setdefault(point["run"], []).append(pair)
    return {run: np.mean(pairs, axis=0) for run, pairs in found.items()}


def compared(found: Mapping[str, Array]) -> Difference:
    first, second = np.array(list(found.values())).T
    return paired_difference(first, second)


def tell(out: Path, *, keep: bool) -> None:
    """Of all runs, and of each kind: how far each rule goes, and what it gains over today's horizon."""
    points = whole_rows(out / "points.jsonl")
    scores = {(row["run"], row["last"], row["horizon"]): row for row in whole_rows(out / "scores.jsonl")}
    begun = {p["run"] for p in points if any((p["run"], p["last"], h) not in scores for h in asked(p))}
    points = [point for point in points if point["run"] not in begun]  # only those that are done count
    found = {
        (one, other, by): gains(points, scores, one, by, other)
        for one, other in (("today", "held"), *((name, "today") for name in RULES))
        for by in ("sampled", "greedy")
    }
    runs = sorted({run for one in found.values() for run in one})

    def told(point: Point, name: str) -> bool:
        return bool(point["drift"]) and point[name] is not None

    rows = []
    for one in ("all", *dict.fromkeys(map(kind, runs))):
        of_kind = [run for run in runs if one in ("all", kind(run))]
        row: dict[str, Any] = {"kind": one, "runs": len(of_kind)}
        row["reach"] = [
            float(
                np.median([p[name] / (p["last"] - p["first"]) for p in points if told(p, name) and p["run"] in of_kind])
            )
            for name in ("today", *RULES)
        ]
        for (*pair, by), gained in found.items():
            mine = {run: gained[run] for run in of_kind if run in gained}
            row[f"{pair[0]}, {by}"] = _gain(compared(mine), len(mine)) if mine else None
        rows.append(row)
    columns: list[Column] = [
        {"key": "kind", "title": "runs"},
        {"key": "runs", "title": "number"},
        {"key": "reach", "title": f"horizon over steps seen: today, {', '.join(RULES)}", "decimals": 2},
        *({"key": f"{one}, {by}", "title": f"{by}: {one} less {other}"} for one, other, by in found),
    ]
    table = Table("python benchmarks/horizon.py tell docs/evidence/horizon --keep", columns, rows, zero=False)
    print(table.text())
    if keep:
        table.keep(ROOT / "docs" / "evidence" / "horizon.json")


def _gain(gained: Difference, runs: int) -> str:
    """Mean, and from six runs on, below which nothing can be told, the interval and p."""
    text = f"{gained.mean:+.3f}"
    if runs >= 6:
        text += " ({:+.3f} to {:+.3f}; p {:.4f})".format(*gained.interval, gained.p_value)
    return text.replace("0.", ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("score", "tell"))
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument("--keep", action="store_true", help="write the record of the documentation's table")
    arguments = parser.parse_args()
    if arguments.what == "score":
        score(arguments.out, arguments.runs)
    else:
        tell(arguments.out, keep=arguments.keep)


if __name__ == "__main__":
    main()
