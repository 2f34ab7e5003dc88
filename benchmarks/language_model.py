"""GRPO of a real language model, SmolLM2-135M-Instruct, whole and by LoRA, on two tasks that it can learn; and what
driftline says of each run.

    python benchmarks/language_model.py DIR                  all five runs: train what is missing, measure, keep
    python benchmarks/language_model.py DIR sums-full        one of them
    python benchmarks/language_model.py DIR --device auto    on a GPU

DIR/NAME is the run (4 GB), DIR/NAME-analysis and the like what was measured. Kept in docs/evidence/smollm2/NAME are the
results alone: settings and accuracy of the run, summary.json and tensors.parquet of its weights, backtest.json, the
summary of its log-probs, and sweep.json, which has the forecasts from the first fifth of the run with the control for
sharpening. On one core a run takes 22 minutes (LoRA 30) and its measurement five.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import driftline
from driftline.lab.record import finished
from driftline.lab.run import train
from driftline.lab.settings import LabRun
from driftline.terminal import training_step
from tables import ROOT, Table

KEPT = ROOT / "docs" / "evidence" / "smollm2"
SHAPE = LabRun(
    model="smollm2",
    system="Answer.",
    steps=150,
    save_every=10,
    score_every=50,
    prompts_per_step=4,
    rollouts=8,
    temperature=0.7,
    max_new_tokens=12,
    held_out_problems=128,
    precision="bfloat16",
    save_dtype="bfloat16",
)
RUNS = {
    "larger-full": replace(SHAPE, task="larger", learning_rate=3e-6),
    "larger-lora": replace(SHAPE, task="larger", learning_rate=3e-5, lora_rank=16),
    "sums-full": replace(SHAPE, task="sums-of-two", learning_rate=1e-5),
    "sums-lora": replace(SHAPE, task="sums-of-two", learning_rate=1e-4, lora_rank=16),
    "larger-float32": replace(SHAPE, task="larger", learning_rate=3e-6, save_dtype="float32"),
}
SEEN, TARGETS = 30, (60, 90, 120, 150)
BATCH = 64


def measure(name: str, settings: LabRun) -> dict[str, Path]:
    """What is kept of a run, by the name that it is kept under; what was measured before is left as it is."""
    base = f"{name}/base" if settings.lora_rank is not None else None
    run = driftline.open_trajectory(name, base=base)
    tokens: dict[str, Any] = {"temperature": settings.temperature, "top_p": 1.0}
    task: dict[str, Any] = {"task": f"{name}/held_out.jsonl", "verifier": "exact", "extract": "last-number"}

    def once(what: str, make: Callable[[Path], Any]) -> Path:
        out = Path(f"{name}-{what}")
        if not out.exists():
            print(f"{name}: {what}", flush=True)
            make(out)
        return out

    analysis = once("analysis", lambda out: driftline.analyze(run, out))
    tested = once("backtest", lambda out: driftline.backtest(run, out))
    rollouts = once("rollouts.jsonl", lambda out: sample(name, base, settings, out))
    logprobs = once("logprobs", lambda out: driftline.logprobs(run, rollouts, out))
    first = driftline.open_trajectory(name, base=base, steps=f"0:{SEEN}")
    swept = once(
        "sweep",
        lambda out: driftline.sweep(
            first,
            out=out,
            to=",".join(map(str, TARGETS)),
            samples=4,
            max_new_tokens=settings.max_new_tokens,
            batch_size=BATCH,
            observed=2,
            **tokens,
            **task,
        ),
    )
    real = once(
        "real",
        lambda out: driftline.evaluate(
            f"{name}/checkpoint-{TARGETS[-1]}",
            out=out,
            samples=4,
            max_new_tokens=settings.max_new_tokens,
            batch_size=BATCH,
            **tokens,
            **task,
        ),
    )
    return {
        "run.json": Path(name) / "run.json",
        "accuracy.jsonl": Path(name) / "accuracy.jsonl",
        "summary.json": analysis / "summary.json",
        "tensors.parquet": analysis / "tensors.parquet",
        "backtest.json": tested / "backtest.json",
        "logprobs.json": logprobs / "summary.json",
        "sweep.json": swept / "sweep.json",
        f"step-{TARGETS[-1]}.json": real / "evaluation.json",
    }


def line(name: str, settings: LabRun) -> dict[str, Any]:
    """What the kept results say of a run, as a row of the table in docs/findings.md; sampled scores with 95 % intervals."""
    folder = KEPT / name
    summary, logprobs, tested, swept, last = (
        json.loads((folder / file).read_text(encoding="utf-8"))
        for file in ("summary.json", "logprobs.json", "backtest.json", "sweep.json", f"step-{TARGETS[-1]}.json")
    )
    greedy = [json.loads(row)["greedy"] for row in (folder / "accuracy.jsonl").read_text(encoding="utf-8").splitlines()]
    start, late = (within(next(one for one in swept["observed"] if one["step"] == step)) for step in (0, SEEN))
    best = next(one for one in swept["candidates"] if one["step"] == swept["best"]["step"])
    beyond = swept["control"]["beyond_sharpening"]
    return {
        "run": f"{settings.task}, {'whole' if settings.lora_rank is None else f'LoRA {settings.lora_rank}'}"
        + (", saved in float32" if settings.save_dtype == "float32" else ""),
        "greedy": [greedy[0], greedy[-1]],
        "start": start,
        "late": late,
        "last": within(last),
        "cosine": summary["drift"]["increment_cosine"],
        "r2": summary["r2"]["median"],
        "null_r2": summary["null_r2"]["median"],
        "unchanged": summary["rounding"]["unchanged_share"],
        "drift": "yes" if summary["verdict"]["linear"] else "no",
        "logprobs": logprobs["drift"]["increment_cosine"],
        "horizon": tested["recommended_horizon"],
        "best": f"step {best['step']}: {within(best)}",
        "beyond": short(f"{beyond['mean']:+.2f} ({beyond['interval'][0]:+.2f} to {beyond['interval'][1]:+.2f})"),
    }


def within(figures: dict[str, Any]) -> str:
    low, high = figures["interval"]
    return short(f"{figures['avg@k']:.2f} ({low:.2f} to {high:.2f})")


def short(text: str) -> str:
    """Numbers without their leading zero, as in the other tables there."""
    return re.sub(r"\b0\.", ".", text)


COLUMNS = (
    {"key": "run", "title": "run"},
    {"key": "greedy", "title": "greedy, first and last", "decimals": 2},
    {"key": "start", "title": "sampled at step 0"},
    {"key": "late", "title": f"at step {SEEN}"},
    {"key": "last", "title": f"at step {TARGETS[-1]}"},
    {"key": "cosine", "title": "cosine", "decimals": 2},
    {"key": "r2", "title": "median R²", "decimals": 2},
    {"key": "null_r2", "title": "chance", "decimals": 2},
    {"key": "unchanged", "title": "saved weights unchanged in an interval", "percent": True},
    {"key": "drift", "title": "drift told from chance"},
    {"key": "logprobs", "title": "cosine of log-probs", "decimals": 2},
    {"key": "horizon", "title": "recommended horizon", "decimals": 0},
    {"key": "best", "title": f"best forecast from steps 0 to {SEEN}"},
    {"key": "beyond", "title": f"over step {SEEN}, as sure"},
)


def sample(name: str, base: str | None, settings: LabRun, out: Path) -> None:
    """One response of the run's start to each held-out problem."""
    from driftline.decoding.generate import generate
    from driftline.decoding.settings import GenerationSettings

    asked = GenerationSettings(
        late=base or f"{name}/checkpoint-0",
        temperature=settings.temperature,
        top_p=1.0,
        samples=1,
        max_new_tokens=settings.max_new_tokens or 12,
        keep_prompt_ids=True,
    )
    generate(Path(name) / "held_out.jsonl", out, asked, batch_size=BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the runs and what is measured")
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], help="which; default all")
    parser.add_argument("--device", choices=["cpu", "auto"], default="cpu")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)  # so that no record names a path of this machine
    for name in args.names or RUNS:
        settings = replace(RUNS[name], device=args.device)
        if not finished(Path(name), settings):
            train(Path(name), settings, on_step=training_step(settings.steps, quiet=False), say=print)
        for kept, file in measure(name, settings).items():
            (KEPT / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, KEPT / name / kept)
    rows = [line(name, settings) for name, settings in RUNS.items() if (KEPT / name / "run.json").is_file()]
    Table("python benchmarks/language_model.py DIR", COLUMNS, rows, zero=False).keep(KEPT.with_suffix(".json"))


if __name__ == "__main__":
    main()
