"""A request spelled out is a command line that asks for the same, whatever is in its paths."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import walk_weights
from driftline import cli
from driftline.checkpoints.trajectory import open_trajectory
from driftline.commands import COMMANDS, request_type
from driftline.commands.requests import command_line, make, words
from driftline.errors import InputError

NASTY = ("my run", "it's", 'say "hi"', "ünï/çødé", "a$b`c`", "-begins-with-a-dash", "x;rm y", "step=5", "*?[x]")

_RUN = {"run": ("R",), "out": "O"}
ASKED: dict[str, dict[str, Any]] = {
    "analyze": {**_RUN, "filter": "paper", "clock": "lr", "steps": "0:100:10", "overwrite": True, "engine": "ray"},
    "inspect": {"run": ("0=a", "10=b"), "strict": True, "json": True},
    "compare": {"results": ("a", "b"), "out": "O"},
    "watch": {"run": ("R",), "out": "O", "interval": 0.5, "once": True},
    "logprobs": {**_RUN, "rollouts": "F", "dtype": "float32"},
    "activations": {**_RUN, "rollouts": "F", "layers": (0, 3), "units": 8},
    "rollouts": {"model": "M", "prompts": "P", "out": "O", "samples": 3},
    "backtest": {**_RUN, "analysis": "A", "rank": 2, "quiet": True},
    "advise": {"run": ("R",), "analysis": "A", "quiet": True},
    "extrapolate": {**_RUN, "to": "40,50", "from_": (10, 20), "keep": ("a*", "b"), "alpha": 1.5, "dtype": "bfloat16"},
    "evaluate": {"early": "E", "late": "L", "alpha": -1e-5, "task": "sums", "out": "O", "temperature": 0.0},
    "sweep": {
        **_RUN,
        "to": "10:20:5",
        "task": "t.jsonl",
        "extract": "boxed",
        "keep_models": True,
        "checkpoints": "all",
    },
    "generate": {"late": "L", "prompts": "P", "out": "O", "top_p": 1.0},
    "serve": {"late": "L", "port": 0, "key_file": "K", "max_tokens_in_flight": 9, "grace": 0.5},
    "reground": {
        "model": "M",
        "m": 2,
        "n": 3,
        "cycles": 1,
        "out": "O",
        "command": ("python", "t.py", "--x", "{model}"),
    },
    "demo": {"out": "O", "quick": True},
    "train": {"out": "O", "settings": None, "steps": 3, "learning_rate": 1e-4, "m": 2, "n": 2},
    "study": {"name": "rank", "out": "O", "runs": ("a", "b")},
}


def asked(name: str, **more: Any) -> Any:
    options = {key: value for key, value in ASKED[name].items() if key != "settings"}
    return make(request_type(name), **{**options, **more})


def parsed(line: str) -> Any:
    """What the real command line makes of a line that was copied into a shell."""
    program, name, *rest = shlex.split(line)
    assert program == "driftline"
    return cli.parse(name, rest)


def test_every_command_is_tried() -> None:
    assert set(ASKED) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_request_spelled_out_asks_for_the_same(name: str) -> None:
    request = asked(name)
    assert parsed(command_line(request)) == request


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_left_out(name: str) -> None:
    spelled = words(asked(name))
    assert not {"--base", "--top-k", "--seed", "--ray-address"} & set(spelled)


@pytest.mark.parametrize("place", NASTY)
@pytest.mark.parametrize("name", [name for name in COMMANDS if "run" in ASKED[name]])
def test_any_path_survives_the_shell(name: str, place: str) -> None:
    out = {"out": f"to/{place}"} if "out" in ASKED[name] else {}
    request = asked(name, run=(place,), **out)
    again = parsed(command_line(request))
    (run,) = again.source.run
    assert Path(run) == Path(place)
    assert [Path(word) for word in out.values()] == [Path(value) for value in _outs(again)][: len(out)]


def _outs(request: Any) -> list[Path]:
    parts = [request, *(getattr(request, f.name) for f in dataclasses.fields(request))]
    return [part.out for part in parts if hasattr(part, "out")]


def test_the_forms_of_an_option_are_one() -> None:
    spaced, joined = (parsed(f"driftline analyze R {form}") for form in ("--out 'a b'", "'--out=a b'"))
    assert spaced == joined
    assert parsed("driftline analyze --out a R") == parsed("driftline analyze R --out=a")


def test_options_from_python_are_as_the_command_takes_them() -> None:
    kind = request_type("extrapolate")
    request: Any = make(kind, run="R", out="O", to=[40, 50], from_=10, analysis="A")
    assert request == parsed("driftline extrapolate R --out O --to 40,50 --from 10 --analysis A")
    with pytest.raises(InputError, match="extrapolate has no option 'target'"):
        make(kind, run="R", out="O", target=3)
    with pytest.raises(InputError, match="out is missing"):
        make(kind, run="R")


def test_an_open_run_is_spelled_out_as_what_was_opened(make_run: Callable[..., Path], rng: np.random.Generator) -> None:
    """Pairs stay pairs, and the steps are those that were chosen: the line opens the same checkpoints."""
    run = make_run(walk_weights(rng, [0, 10, 20, 30], {"a": (9,)}), run="it's, 1=mine")
    for opened in (
        open_trajectory(run, steps="0:20"),
        open_trajectory([f"{step}={run / f'checkpoint-{step}'}" for step in (0, 10, 30)]),
    ):
        again = parsed(command_line(make(request_type("analyze"), run=opened, out="O"))).source.open()
        assert again.steps == opened.steps
        assert again.folders == opened.folders


def test_secrets_in_an_address_are_not_spelled_out() -> None:
    request: Any = make(request_type("inspect"), run="s3://key:secret@bucket/run")
    assert "secret" not in command_line(request)
