"""Sweeps of what a server runs: a model for each step, or two checkpoints at any alpha."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict
from noisy_runs import SETTINGS, noisy_run, request, swept

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding" / "backends"))

from api_servers import named, running

from driftline.checkpoints.trajectory import Trajectory
from driftline.decoding.sampler import Sampler
from driftline.decoding.sources import load_sampler
from driftline.errors import InputError
from driftline.evaluation.tasks import Task, open_task


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    return noisy_run(tmp_path_factory.mktemp("sweep") / "run", {0: 1.0, 60: 0.4, 100: 0.0, 160: 0.7})


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task("sums", problems=24, seed=0)


@contextmanager
def serving(samplers: Mapping[str, Callable[[float], Sampler]]) -> Iterator[str]:
    """A server of some models by their names, each at an alpha; answers are texts, without token ids."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answered(asked: Request) -> JSONResponse:
        body = await asked.json()
        sampler = samplers[body["model"]](float(body.get("alpha", 1.0)))
        ids = sampler.tokenizer(body["prompt"])["input_ids"]
        (drawn,) = sampler.sample(
            [ids],
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            top_k=0,
            max_new_tokens=body["max_tokens"],
            seeds=[body.get("seed", 0)],
        )
        choice = {"index": 0, "text": sampler.text(drawn), "finish_reason": drawn.finish_reason}
        return JSONResponse({"choices": [choice], "usage": {"completion_tokens": len(drawn.ids)}})

    async def listed(asked: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in samplers]})

    paths = [Route("/v1/completions", answered, methods=["POST"]), Route("/v1/models", listed)]
    with running(Starlette(routes=paths)) as address:
        yield address


def checkpoint(run: Trajectory, step: int) -> Sampler:
    return load_sampler(str(run.folders[run.steps.index(step)]), dtype="auto")


def _the_same(sampler: Sampler, alpha: float) -> Sampler:
    return sampler


@pytest.fixture(scope="module")
def of_steps(run: Trajectory) -> Iterator[str]:
    """A server with a model `at-STEP` for each checkpoint."""
    loaded = {f"at-{step}": checkpoint(run, step) for step in run.steps}
    with serving({name: partial(_the_same, sampler) for name, sampler in loaded.items()}) as address:
        yield address


@pytest.fixture(scope="module")
def of_two(run: Trajectory) -> Iterator[str]:
    """A server of steps 0 and 60."""
    early, late = checkpoint(run, 0), checkpoint(run, 60)

    def at(alpha: float) -> Sampler:
        return Sampler(late.late, late.tokenizer, early=early.late, alpha=alpha)

    with serving({"pair": at}) as address:
        yield address


def scores(record: Any) -> dict[Any, Any]:
    figures = [*record.observed, *record.candidates]
    return {(c.kind, c.step): (c.problems, c.avg_at_k, c.response_tokens) for c in figures}


def test_checkpoints_are_scored_by_a_servers_models(run, task, tmp_path, of_steps) -> None:
    here = swept(run, task, tmp_path / "here", request(), tried=run.steps)
    asked = replace(SETTINGS, backend=named(of_steps, "at-{step}"))
    record = swept(run, task, tmp_path / "out", request(), asked, tried=run.steps)
    assert scores(record) == scores(here)
    assert (record["best"]["kind"], record["best"]["step"]) == ("checkpoint", 100)
    assert record["best"] == here["best"]
    assert record["sentence"] == here["sentence"]
    assert asdict(record["control"]["entropy"]) == pytest.approx(asdict(here["control"]["entropy"]), rel=1e-4)
    assert record["backend"] == "http"


def test_targets_are_alphas_of_one_server(run, task, tmp_path, of_two) -> None:
    asked = request(80, 100, 200, seen=(0, 60))
    here = swept(run, task, tmp_path / "here", asked, output_space=True, observed=1)
    there = replace(SETTINGS, backend=named(of_two, "pair"))
    record = swept(run, task, tmp_path / "out", asked, there, output_space=True)
    assert [c["step"] for c in record["observed"]] == [0, 60]  # what the server has
    assert {key: value for key, value in scores(record).items() if key != ("checkpoint", 0)} == scores(here)
    assert record["sentence"] == here["sentence"]


@pytest.mark.parametrize(
    ("model", "asked", "more", "complaint"),
    [
        ("at-{step}", request(200), {}, "forecasts in weights are only here"),
        ("at-{step}", request(200), {"output_space": True}, "has a place for a step, and one model is asked"),
        ("at-60", request(), {"tried": (0, 60)}, "is one model, and there is one for each step"),
        ("at-{step}", request(200), {"output_space": True, "tried": (60,)}, "one server of two checkpoints"),
        ("on-{step}", request(), {"tried": (0, 60)}, "has no model 'on-"),
        ("at-60", request(200), {"output_space": True}, "answers alike whatever alpha is"),
    ],
)
def test_what_a_server_cannot_have_is_refused(run, task, tmp_path, of_steps, model, asked, more, complaint) -> None:
    settings = replace(SETTINGS, backend=named(of_steps, model))
    with pytest.raises(InputError, match=complaint):
        swept(run, task, tmp_path / "out", asked, settings, **more)
    assert [path.name for path in tmp_path.iterdir()] == ["out-folder"]
