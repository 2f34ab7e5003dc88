"""Fixed responses scored by a server, whichever way it tells log-probs of a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api_servers import CONCURRENT, Fake, driftlines, named, running
from tiny_models import pair, save, tokenizer

from driftline import InputError, open_trajectory
from driftline.checkpoints.layouts import Checkpoint
from driftline.decoding.backends import connection
from driftline.decoding.backends.forcing import ServedScore
from driftline.decoding.backends.opening import scorer
from driftline.decoding.sampler import Sampler
from driftline.outputs.logprobs import logprobs
from driftline.outputs.rollouts import Rollout
from driftline.outputs.teacher_forcing import token_logprobs

NAMES: list[dict[str, Any]] = [{"id": f"run-{step}"} for step in (0, 10, 20)]
ROLLOUTS = [Rollout((30 + i, 7), tuple(range(8, 11 + i % 3))) for i in range(50)]
HERE = Checkpoint(Path("run"), "", {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are short."""
    monkeypatch.setattr(connection, "_LONGEST_WAIT", 0.01)


def score(fake: Fake, rollouts: list[Rollout] = ROLLOUTS) -> np.ndarray:
    read: list[int] = []
    with running(fake.app) as address:
        found = ServedScore(named(address, "run-{step}"))(10, HERE, rollouts, read.append)
    assert sum(read) == sum(rollout.length for rollout in rollouts)
    assert {body["model"] for body in fake.asked} == {"run-10"}
    return found


@pytest.mark.parametrize("way", ["prompt_logprobs", "echo"])
def test_each_token_has_its_own(way: str) -> None:
    found = score(Fake(scores=way, models=NAMES, seconds=lambda body: (body["prompt"][0] % 3) * 0.002))
    assert found.dtype == np.float32
    expected = [-token / 100 for rollout in ROLLOUTS for token in rollout.response_ids]
    assert found == pytest.approx(expected)


def test_a_server_that_has_to_draw_a_token_is_read_to_the_prompts_end() -> None:
    def no_zero(place: int, body: dict[str, Any]) -> Any:
        from api_servers import refused

        return refused(400, "max_tokens must be at least 1") if body["max_tokens"] == 0 else None

    fake = Fake(scores="echo", models=NAMES, misbehave=no_zero)
    assert score(fake) == pytest.approx([-token / 100 for rollout in ROLLOUTS for token in rollout.response_ids])
    assert fake.asked[-1]["max_tokens"] == 1


def told(values: list[Any], prompt_tokens: int, **more: Any) -> dict[str, Any]:
    choice = {"text": "", "finish_reason": "length", "logprobs": {"token_logprobs": values}, **more}
    return {"choices": [choice], "usage": {"prompt_tokens": prompt_tokens}}


@pytest.mark.parametrize(
    "answer",
    [
        lambda ids: told([None] + [-1.0] * (len(ids) - 2), len(ids)),  # one short
        lambda ids: told([None] + [-1.0] * (len(ids) + 1), len(ids)),  # two too many
        lambda ids: told([None] + [-1.0] * len(ids), len(ids) + 1),  # a token was put before
        lambda ids: told([-1.0] * len(ids), len(ids)),  # the first cannot have one
        lambda ids: told([None, None] + [-1.0] * (len(ids) - 2), len(ids)),
        lambda ids: {"choices": [{"prompt_logprobs": [None] + [{"5": {"logprob": -1.0}}] * (len(ids) - 1)}]},
        lambda ids: {"choices": [{"prompt_logprobs": [None, {str(ids[1]): {"logprob": -1.0}}]}]},
    ],
)
def test_log_probs_that_are_not_the_tokens_own_are_noticed(answer: Any) -> None:
    """At once, or in a later row than those that the server got right."""
    always = Fake(models=NAMES, misbehave=lambda place, body: _sent(answer(body["prompt"])))
    with pytest.raises(InputError, match="does not tell log-probs of a prompt's tokens"):
        score(always)
    later = Fake(scores="echo", models=NAMES)
    later.misbehave = lambda place, body: _sent(answer(body["prompt"])) if body["prompt"][0] == 50 else None
    with pytest.raises(InputError, match="no log-prob for each token of row 20"):
        score(later)


def _sent(answer: dict[str, Any]) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(answer)


def test_minus_infinity_is_not_a_number_that_json_has() -> None:
    fake = Fake(models=NAMES, misbehave=lambda place, body: _sent(told([None, -1.0, -9999.0, -1.0], 4)))
    assert score(fake, [Rollout((30, 7), (8, 9))]).tolist() == [-np.inf, -1.0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints of a model that moves."""
    model = pair()[1]
    for step in (0, 10, 20):
        with torch.no_grad():
            for weights in model.parameters():
                weights += 0.01 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(step))
        save(tmp_path / "run" / f"checkpoint-{step}", model)
    return tmp_path / "run"


def test_a_run_is_measured_and_a_stopped_call_goes_on(run: Path, tmp_path: Path) -> None:
    rows = [{"prompt_ids": list(r.prompt_ids), "response_ids": list(r.response_ids)} for r in ROLLOUTS]
    rollouts, out = tmp_path / "rollouts.jsonl", tmp_path / "out"
    rollouts.write_text("\n".join(map(json.dumps, rows)))
    out.mkdir()
    fake = Fake(scores="echo", models=NAMES[:2])
    with running(fake.app) as address:
        given = scorer(named(address, "run-{step}"), "auto")
        with pytest.raises(InputError, match="no model 'run-20': choose run-0, run-10"):
            logprobs(open_trajectory(run), rollouts, out, out, score=given)
        fake.models.append({"id": "run-20"})
        before = len(fake.asked)
        summary = logprobs(open_trajectory(run), rollouts, out, out, score=given)
        assert {body["model"] for body in fake.asked[before:]} == {"run-20"}
    values = [-token / 100 for rollout in ROLLOUTS for token in rollout.response_ids]
    assert summary.mean_logprob == pytest.approx([np.mean(values)] * 3)


@pytest.mark.skipif(not CONCURRENT, reason="driftline's server does not tell log-probs of prompts")
def test_driftlines_own_server_scores_as_the_embedded_backend_does() -> None:
    model = pair()[1]
    with driftlines(Sampler(model, tokenizer())) as address:
        found = ServedScore(named(address, "{step}iny"))("t", HERE, ROLLOUTS, lambda count: None)  # type: ignore[arg-type]
    assert found == pytest.approx(token_logprobs(model, ROLLOUTS), abs=1e-4)


def test_a_call_that_scored_nothing_leaves_nothing(run: Path, tmp_path: Path) -> None:
    rollouts, folder = tmp_path / "rollouts.jsonl", tmp_path / "out"
    rollouts.write_text('{"prompt_ids": [5, 6], "response_ids": [7, 8, 9]}\n')
    folder.mkdir()
    before = sorted(tmp_path.iterdir())
    fake = Fake(models=[{"id": "other"}])
    with running(fake.app) as address, pytest.raises(InputError, match="has no model 'run-0'"):
        logprobs(open_trajectory(run), rollouts, folder, folder, score=scorer(named(address, "run-{step}"), "auto"))
    assert sorted(tmp_path.iterdir()) == before
