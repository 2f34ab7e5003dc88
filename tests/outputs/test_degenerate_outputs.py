"""Outputs at the edge of what a run's can be: a page and figures that are finite or left out; never a traceback or a warning.

Warnings are errors in all tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline import terminal
from driftline.checkpoints.momentum import Momentum
from driftline.errors import InputError
from driftline.files.record import record_text
from driftline.linearity.figures import Facts
from driftline.linearity.summary import SampledUnits
from driftline.outputs import activations, logprobs
from driftline.outputs.rollouts import Rollout
from driftline.outputs.source_of_change import Change
from driftline.report import charts
from driftline.report import outputs as page

NOT_FINITE = re.compile(r"(?<![-\w/])(nan|inf|NaN|Infinity|None)(?![-\w/])")
ROLLOUTS = [Rollout((1, 2), (3, 4, 5)), Rollout((1,), (6, 7, 8))]
N, T = 6, 7
RNG = np.random.default_rng(0)
BASE = -np.abs(RNG.standard_normal(N)).astype(np.float32)
WALK = np.cumsum(RNG.standard_normal((T, N)), 0).astype(np.float32)
SERIES: dict[str, np.ndarray] = {
    "still": np.tile(BASE, (T, 1)),
    "zeros": np.zeros((T, N), np.float32),
    "three still": np.tile(BASE, (3, 1)),
    "all alike": np.tile(np.arange(T, dtype=np.float32)[:, None], (1, N)),
    "one moves": BASE + WALK * (np.arange(N) == 2),
    "one moves once": BASE + np.outer(np.arange(T) == T - 1, np.arange(N) == 2),
    "still at first": BASE + WALK * (np.arange(T) > 4)[:, None],
    "moves once, at first": BASE + np.outer(np.arange(T) > 0, np.ones(N)),
    "there and back": BASE + np.outer(np.arange(T) % 2, np.ones(N)),
    "line": BASE + np.outer(np.arange(T), np.arange(N)),
    "three of a line": BASE + np.outer(np.arange(3), np.arange(N)),
    "tiny": BASE * 0 + WALK * np.float32(1e-38),
    "huge": WALK * np.float32(1e30),
    "walk": WALK,
}


def facts(T: int) -> Facts:
    steps = tuple(range(0, 10 * T, 10))
    return Facts("run", steps, "step", np.array(steps, float), Momentum(0.0, "run.json"))


class Numbered:
    """A tokenizer that can only say which token it is."""

    def decode(self, ids: list[int], **how: object) -> str:
        return f"token {ids[0]}"


def of_tokens(values: np.ndarray, folder: Path) -> Any:
    known = facts(len(values))
    summary = logprobs.summarize(values, len(ROLLOUTS), known)
    tokenizer: Any = Numbered()
    logprobs._write_tokens(folder / "tokens.parquet", values, ROLLOUTS, tokenizer, known.clock_values, known.steps)
    logprobs._write_sequences(folder / "sequences.parquet", values, ROLLOUTS, known.steps)
    page.write_logprobs(folder, summary, command="driftline logprobs")
    return summary


def of_units(values: np.ndarray, folder: Path) -> Any:
    known = facts(len(values))
    settings = SampledUnits(layers=[0], positions=3, units=2, seed=0)
    blocks = values[:, None, :]
    still = np.zeros((3, 2), np.float32)
    changes = [Change("layers.0.mlp.up", dict.fromkeys(("input", "weight", "second_order", "bias"), still), still)]
    some = changes if values.any() else []
    summary = activations._summarize(blocks, ["layers.0.mlp"], known, len(ROLLOUTS), settings, some)
    activations._write(folder / "activations.parquet", blocks, ["layers.0.mlp"], known.clock_values, known.steps)
    page.write_activations(folder, summary, command="driftline activations")
    return summary


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("measured", [of_tokens, of_units])
def test_figures_of_outputs_are_finite_or_not_there(
    name: str, measured: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = measured(SERIES[name].astype(np.float32), tmp_path)
    json.loads(record_text(summary), parse_constant=lambda constant: pytest.fail(constant))
    terminal.analysis(summary)
    body = re.sub(
        r"<(script|style)(?! type=.application/json).*?</\1>", "", (tmp_path / "report.html").read_text(), flags=re.S
    )
    printed = capsys.readouterr()
    for text in (body, printed.out, printed.err):
        assert not NOT_FINITE.search(text), NOT_FINITE.search(text)


@pytest.mark.parametrize("power", [None, 0.5, -300.0])
@pytest.mark.parametrize("norms", [[], [1.0], [1.0, 1.0, 1.0], [1e-300, 1.0, 1e300]])
def test_the_growth_of_any_norms_is_drawn(norms: list[float], power: float | None) -> None:
    elapsed = np.arange(1.0, len(norms) + 1)
    with np.errstate(over="ignore"):
        drawn = charts.growth(elapsed, np.array(norms), power, power, "step")
    assert bool(drawn) is bool(norms)
    assert not NOT_FINITE.search(drawn)


def test_what_is_no_number_is_a_gap_in_a_chart() -> None:
    assert charts.inert({"y": np.array([1.0, np.nan, np.inf])}) == {"y": [1.0, None, None]}
    assert charts._one_two_five(np.array([0.0, np.nan])) == []


@pytest.mark.parametrize("sizes", [(0, 64), (256, 0), (-1, 64)])
def test_a_sample_of_nothing_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"--(positions|units) is (0|-1): it must be at least 1"):
        activations.Sampling(positions=sizes[0], units=sizes[1])
