"""One page of each kind, made from small synthetic results with markup planted wherever a run supplies text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from conftest import save_tensors, walk_weights
from driftline.checkpoints.jumps import Jump, write_jumps
from driftline.checkpoints.momentum import Momentum
from driftline.checkpoints.trajectory import open_trajectory
from driftline.evaluation import records
from driftline.files.record import write_record
from driftline.forecast import backtest
from driftline.forecast.observations import observe
from driftline.lab import model as lab_model
from driftline.linearity.analysis import analyze
from driftline.linearity.comparison import compare
from driftline.linearity.figures import Facts
from driftline.linearity.summary import ActivationsSummary, Cost, LogprobsSummary
from driftline.outputs import activations, series
from driftline.outputs.logprobs import summarize
from driftline.report import analysis, comparison, outputs, study, sweep
from driftline.report import backtest as backtest_page
from driftline.studies.rank import RankRecord

MARKUP = '</script><script>planted=1</script><img src=x onerror=planted=1><a href="https://planted.invalid">p</a>'
STEPS = list(range(0, 120, 10))
_IN_A_PATH = MARKUP.replace("/", "")
HOSTILE = [(f"Because {MARKUP}", ["driftline", "backtest", MARKUP, "--out", f"it's {MARKUP}"])]


def make_pages(folder: Path) -> dict[str, Path]:
    """Kind -> its `report.html`."""
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{i}.{m}.weight": (12, 12) for i in range(3) for m in ("q_proj", "up_proj", MARKUP)
    }
    shapes |= {"model.embed_tokens.weight": (40, 8), f"{MARKUP}.weight": (30,)}
    run = folder / f"run {_IN_A_PATH}"
    for step, weights in walk_weights(rng, STEPS, shapes, drift=0.3).items():
        (run / f"checkpoint-{step}").mkdir(parents=True)
        save_tensors(run / f"checkpoint-{step}" / "model.safetensors", weights, "BF16" if step else "F32")
    made = {
        name: folder / f"{name} {_IN_A_PATH}"
        for name in ("analysis", "regrounded", "backtest", "logprobs", "activations", "sweep", "comparison", "study")
    }
    for out in made.values():
        out.mkdir()
    trajectory = open_trajectory(run)
    summary = analyze(trajectory, made["analysis"])
    write_record(made["analysis"] / "summary.json", summary)
    analysis.write(
        made["analysis"], summary, command=f"driftline analyze '{run}' --out '{made['analysis']}'", next_steps=HOSTILE
    )
    write_jumps(run, [_jump(cycle) for cycle in (1, 2)])
    regrounded = analyze(open_trajectory(run), made["regrounded"])
    (run / "jumps.json").unlink()
    analysis.write(
        made["regrounded"],
        regrounded,
        next_steps=HOSTILE,
        command=f"driftline analyze '{run}' --out '{made['regrounded']}'",
    )
    found = _activations(made["activations"], folder / f"models {_IN_A_PATH}")
    outputs.write_activations(
        made["activations"], found, next_steps=HOSTILE, command=f"driftline activations '{run}' --rollouts x --out y"
    )
    observed = observe(trajectory, analysis=made["analysis"])
    tested, scores = backtest.measure(observed, run=str(run), clock="step")
    backtest.write_groups(made["backtest"] / "groups.parquet", scores, observed.steps)
    backtest_page.write(
        made["backtest"], tested, next_steps=HOSTILE, command=f"driftline backtest '{run}' --out '{made['backtest']}'"
    )
    logprobs = _logprobs(made["logprobs"], rng, str(run))
    write_record(made["logprobs"] / "summary.json", logprobs)
    outputs.write_logprobs(
        made["logprobs"],
        logprobs,
        next_steps=HOSTILE,
        command=f"driftline logprobs '{run}' --rollouts '{MARKUP}' --out x",
    )
    sweep.write(made["sweep"], _sweep(), next_steps=HOSTILE, command=f"driftline sweep '{run}' --to 120:160:20 --out y")
    comparison.write(
        made["comparison"],
        compare([made["analysis"], made["logprobs"]]),
        next_steps=HOSTILE,
        command="driftline compare a b --out c",
    )
    study.write(made["study"], _study(), next_steps=HOSTILE, command="driftline study rank --out d")
    return {name: out / "report.html" for name, out in made.items()}


def _jump(cycle: int) -> Jump:
    """Of a run that is projected by 10 steps at steps 40 and 80."""
    step = 40 * cycle
    ahead = 10 * (cycle - 1)
    return Jump(
        cycle=cycle,
        trained_from=step - 40 + ahead,
        trained_to=step + ahead,
        projected_to=step + ahead + 10,
        alpha=1.25,
        accepted=True,
        step=step,
    )


def _activations(folder: Path, run: Path) -> ActivationsSummary:
    """Those of the lab's base, moved along one direction."""
    import torch

    model, tokenizer = lab_model.load(lab_model.shipped_base())
    torch.manual_seed(0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    direction = {name: 1e-4 * torch.randn_like(value) for name, value in start.items()}
    for step in STEPS[:6]:
        model.load_state_dict({name: value + step * direction[name] for name, value in start.items()})
        model.tie_weights()
        model.save_pretrained(run / f"checkpoint-{step}")
    tokenizer.save_pretrained(run / f"checkpoint-{step}")
    rollouts = folder.parent / "rollouts.jsonl"
    rollouts.write_text(
        "\n".join(json.dumps({"prompt": f"{a}+31+10=", "response": f"{a + 31};{a + 41}"}) for a in range(9))
    )
    return activations.activations(open_trajectory(run), rollouts, folder, folder)


def _logprobs(folder: Path, rng: np.random.Generator, run: str) -> LogprobsSummary:
    """A summary and tables as `driftline logprobs` writes them, of 60 rollouts of 40 tokens."""
    T, sequences, length = len(STEPS), 60, 40
    n = sequences * length
    drift = rng.standard_normal(n) * 0.03
    values = np.minimum(-1 + np.arange(T)[:, None] * drift + np.cumsum(0.02 * rng.standard_normal((T, n)), 0), 0)
    values = values.astype(np.float32)
    clock = np.array(STEPS, float)
    found = series.lines(values, clock)
    words = [MARKUP, " sum", "\n", " 12", "=", " the"]
    pq.write_table(
        pa.table(
            {
                "sequence": np.repeat(np.arange(sequences), length),
                "position": np.tile(np.arange(length), sequences),
                "token": [words[i % len(words)] for i in range(n)],
                "slope": found.slope,
                "r2": found.r2,
                "change": values[-1] - values[0],
                "logprob": pa.FixedSizeListArray.from_arrays(pa.array(values.T.ravel()), T),
            }
        ),
        folder / "tokens.parquet",
    )
    sums = values.reshape(T, sequences, length).sum(2, dtype=np.float64).T
    lists = {"logprob": sums, "kl_from_first": np.square(sums - sums[:, :1])}
    columns = {name: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), T) for name, v in lists.items()}
    pq.write_table(
        pa.table({"sequence": np.arange(sequences), "tokens": np.full(sequences, length), **columns}),
        folder / "sequences.parquet",
    )
    facts = Facts(run, tuple(STEPS), "step", clock, Momentum(0.9, "assumed"))
    return replace(summarize(values, sequences, facts), cost=Cost(seconds=1.0))


def _figures(score: float) -> dict[str, Any]:
    interval = [score - 0.04, score + 0.04]
    return {
        "avg_at_k": score,
        "interval": interval,
        "pass_at_k": {"1": score, "4": min(score + 0.1, 1.0)},
        "pass_at_k_interval": {"1": interval, "4": interval},
        "response_tokens": 11.0,
        "truncated": 0.0,
        "mean_score": score,
    }


def _scored(step: int, score: float, problems: int) -> records.Scored:
    return records.Scored(step=step, problems=problems, **_figures(score))


def _sweep() -> records.SweepRecord:
    gain = records.Difference(mean=0.08, interval=[0.02, 0.14], p_value=0.005)
    control = records.Control(
        late=records.Figures(**_figures(0.8)),
        entropy=records.EntropyMatch(temperature=0.7, forecast=0.3, late=0.4, matched=0.3, tokens=900),
        greedy={"forecast": 0.9, "late": 0.85},
        late_matched=records.MatchedFigures(temperature=0.7, **_figures(0.8)),
        gain=gain,
        beyond_sharpening=gain,
        verdict="gain",
        sentence=MARKUP,
    )
    return records.SweepRecord(
        driftline="0",
        run=MARKUP,
        steps=STEPS,
        space="weights",
        forecast="two-point",
        early=records.ModelAtStep(step=0, folder=MARKUP),
        late=records.ModelAtStep(step=110, folder=MARKUP),
        task=MARKUP,
        problems=64,
        samples=4,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=16,
        seed=0,
        rounds=[records.Round(candidates=2, problems=32), records.Round(candidates=1, problems=64)],
        candidates=[_scored(120, 0.82, 32), _scored(140, 0.88, 64)],
        observed=[_scored(0, 0.4, 64), _scored(50, 0.7, 64), _scored(110, 0.8, 64)],
        best=records.Best(step=140, baseline=110, better=True, surer=False, difference=gain, p_value_corrected=0.01),
        sentence=f"Use the forecast of step 140 {MARKUP}",
        control=control,
        versions={"torch": "2"},
        seconds=1.0,
    )


def _study() -> RankRecord:
    keys = (
        "energy",
        "null_energy",
        "coefficient_r2",
        "null_coefficient_r2",
        "skill",
        "null_skill",
        "unchanged_in_bf16",
    )
    rows = [{"run": MARKUP, "rank": rank} | dict.fromkeys(keys, 0.1 * rank) for rank in (1, 2, 4)]
    record = {"driftline": "0", "study": "rank", "quick": True, "runs": [MARKUP], "rows": rows, "seconds": 1.0}
    return msgspec.convert(record | {"findings": [f"Rank one holds most {MARKUP}"]}, RankRecord)
