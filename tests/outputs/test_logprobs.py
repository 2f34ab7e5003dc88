"""`driftline logprobs` and `activations` on a small run: tables, resumption, pages, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from conftest import plain
from driftline import InputError, open_trajectory
from driftline.lab import model as lab_model
from driftline.linearity.summary import Cost
from driftline.outputs import activations, logprobs, teacher_forcing
from driftline.outputs.activations import Sampling
from driftline.report import outputs

torch = pytest.importorskip("torch")

STEPS = [0, 10, 20, 30, 40, 50]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The lab's base, moved along one direction with some noise."""
    model, tokenizer = lab_model.load(lab_model.shipped_base())
    torch.manual_seed(0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    direction = {name: 1e-4 * torch.randn_like(value) for name, value in start.items()}
    for step in STEPS:
        moved = {n: v + step * direction[n] + 2e-4 * torch.randn_like(v) * (step > 0) for n, v in start.items()}
        model.load_state_dict(moved)
        model.tie_weights()
        model.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    tokenizer.save_pretrained(tmp_path / "run" / f"checkpoint-{STEPS[-1]}")
    return tmp_path / "run"


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    path = tmp_path / "rollouts.jsonl"
    rows = [
        {"prompt": f"{a}+{b}+10=", "response": f"{a + b};{a + b + 10}#{a + b + 10}"}
        for a in range(20, 26)
        for b in (31, 47)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def call(measure: Callable[..., Any], run: Path, rollouts: Path, folder: Path, **settings: object) -> Any:
    folder.mkdir(exist_ok=True)
    return measure(open_trajectory(run), rollouts, folder, folder, **settings)


@pytest.mark.parametrize("measure", [logprobs.logprobs, activations.activations])
def test_chance_has_the_momentum_that_is_given(
    measure: Callable[..., Any], run: Path, rollouts: Path, tmp_path: Path
) -> None:
    given, own = (
        call(measure, run, rollouts, tmp_path / name, **said)
        for name, said in (("given", {"beta1": 0.5, "ema": 0.8}), ("own", {}))
    )
    assert (given.optimizer.said, own.optimizer.adam_beta1) == (
        "beta1 0.5 (--beta1), weights averaged with a decay of 0.8",
        0.9,
    )
    assert given.r2.median == own.r2.median
    assert given.null_r2.median != own.null_r2.median


def test_tokens_and_sequences_hold_the_log_probs_of_every_checkpoint(run: Path, rollouts: Path, tmp_path: Path) -> None:
    summary = call(logprobs.logprobs, run, rollouts, tmp_path / "out")
    tokens = pq.read_table(tmp_path / "out" / "tokens.parquet").to_pylist()
    sequences = pq.read_table(tmp_path / "out" / "sequences.parquet").to_pylist()
    assert summary["parameters"]["total"] == len(tokens) == sum(row["tokens"] for row in sequences)
    model, tokenizer = lab_model.load(run / "checkpoint-50")
    ids = tokenizer("22+47+10=69;79#79", return_tensors="pt").input_ids
    with torch.inference_mode():
        scores = model(ids).logits.float().log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0][8:]
    mine = [row for row in tokens if row["sequence"] == 5]
    assert "".join(row["token"] for row in mine) == "69;79#79"
    np.testing.assert_allclose([row["logprob"][-1] for row in mine], scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(sequences[5]["logprob"][-1], scores.sum(), rtol=1e-5)
    first, last = (np.array([row["logprob"][t] for row in mine], np.float64) for t in (0, -1))
    np.testing.assert_allclose(
        sequences[5]["kl_from_first"][-1], np.sum(np.exp(last - first) - 1 - (last - first)), rtol=1e-4, atol=1e-9
    )
    assert all(row["kl_from_first"][0] == 0 for row in sequences)
    assert summary["kind"] == "logprobs"
    assert summary["steps"] == STEPS
    assert {"r2", "null_r2", "drift", "persistence", "rank1", "skill", "regime", "verdict", "paper_filter"} <= set(
        plain(summary)
    )


def test_a_second_call_goes_on_where_the_first_was_stopped(
    run: Path, rollouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = call(logprobs.logprobs, run, rollouts, tmp_path / "whole")
    scored: list[int] = []
    original = teacher_forcing.token_logprobs

    def stopped(*arguments: object, **settings: object) -> np.ndarray:
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(1)
        return original(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_forcing, "token_logprobs", stopped)
    with pytest.raises(KeyboardInterrupt):
        call(logprobs.logprobs, run, rollouts, tmp_path / "out")
    assert len(list((tmp_path / ".out.work").glob("*.npy"))) == 3
    scored.clear()
    resumed = call(logprobs.logprobs, run, rollouts, tmp_path / "out")
    assert len(scored) == 3
    assert replace(resumed, cost=Cost()) == replace(whole, cost=Cost())
    assert not (tmp_path / ".out.work").exists()


def test_work_for_other_rollouts_is_not_taken_up(
    run: Path, rollouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "_write_tokens", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        call(logprobs.logprobs, run, rollouts, tmp_path / "out")
    monkeypatch.undo()
    changed = tmp_path / "other.jsonl"
    changed.write_text(json.dumps({"prompt": "11+22+33=", "response": "33;66#66"}))
    summary = call(logprobs.logprobs, run, changed, tmp_path / "out")
    assert summary["rollouts"] == 1


def test_pages_are_made_and_tokens_escaped(
    run: Path, rollouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    summary = replace(call(logprobs.logprobs, run, rollouts, folder), run="<script>run()</script>")
    table = pq.read_table(folder / "tokens.parquet")
    bad = ["<script>token()</script>"] * table.num_rows
    pq.write_table(table.set_column(table.column_names.index("token"), "token", [bad]), folder / "tokens.parquet")
    outputs.write_logprobs(folder, summary, command="driftline logprobs <b>")
    page = (folder / "report.html").read_text()
    assert "<script>token()" not in page
    assert "<script>run()" not in page
    assert "&lt;script&gt;token()" in page
    summary = call(activations.activations, run, rollouts, folder, sampling=Sampling((1,), 30, 8))
    outputs.write_activations(folder, summary, command="driftline activations")
    assert "layers.1.mlp" in (folder / "report.html").read_text()
    assert summary["parameters"]["total"] == 3 * 30 * 8
    assert all(change.unexplained < 1e-3 for change in summary["source_of_change"])


def test_bad_input_is_refused(run: Path, rollouts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 usable checkpoints: a line needs at least 3"):
        logprobs.logprobs(open_trajectory(run, steps="0,10"), rollouts, tmp_path, tmp_path / "out")
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "1" * 60, "response": "2" * 10}))
    with pytest.raises(InputError, match="is 70 tokens long, more than the model's context of 64"):
        logprobs.logprobs(open_trajectory(run), long, tmp_path, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (run / "checkpoint-50" / name).unlink()
    with pytest.raises(InputError, match="no checkpoint has a tokenizer"):
        logprobs.logprobs(open_trajectory(run), rollouts, tmp_path, tmp_path / "out")


def test_a_remote_run_is_scored_as_a_local_one(
    run: Path, rollouts: Path, tmp_path: Path, upload: Callable[[Path], str]
) -> None:
    records = []
    for name, source in (("here", str(run)), ("there", upload(run))):
        (tmp_path / name).mkdir()
        found = logprobs.logprobs(open_trajectory(source), rollouts, tmp_path / name, tmp_path / name)
        records.append(replace(found, run="", cost=Cost()))
    assert records[0] == records[1]
