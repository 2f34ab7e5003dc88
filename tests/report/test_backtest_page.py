"""The page of a back-test: complete, self-contained, and nothing in it is markup that came from a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from conftest import walk_weights
from driftline.commands import advise as advise_command
from driftline.commands import backtest as backtest_command
from driftline.commands.backtest import Backtest, next_steps
from driftline.commands.requests import make, spelled_out
from driftline.forecast.backtest import measure, write_groups
from driftline.forecast.observations import Observations
from driftline.report import backtest
from driftline.report.grid import layer_grid

EVIL = "<script>alert(1)</script>"


@pytest.fixture(params=[0.0, 1.0], ids=["driftless", "drifting"])
def page(request: pytest.FixtureRequest, rng: np.random.Generator, tmp_path: Path) -> str:
    T, grams = 12, {}
    for name, n in (
        (f"model.layers.0.{EVIL}.weight", 300),
        ("model.layers.1.up.weight", 200),
        ("model.norm.weight", 20),
    ):
        walk = np.cumsum(rng.standard_normal((T, n)) + request.param * rng.standard_normal(n), 0)
        grams[name] = (walk - walk[0]) @ (walk - walk[0]).T
    observed = Observations(np.arange(T) * 10, np.arange(T) * 10.0, 0.0, grams)
    record, tests = measure(observed, run=EVIL, clock="step")
    write_groups(tmp_path / "groups.parquet", tests, observed.steps)
    steps = spelled_out(next_steps(record, make(Backtest, run=EVIL, out="out")))
    backtest.write(tmp_path, record, command=f"driftline backtest {EVIL}", next_steps=steps)
    return (tmp_path / "report.html").read_text()


def test_it_is_complete_and_escaped(page: str) -> None:
    for chart in ("skill", "cutoffs", "groups"):
        assert f'id="{chart}"' in page
    body = page.split("</style>", 1)[1].split("</script>", 1)[1]  # after plotly's own code
    assert EVIL not in body
    assert "&lt;script&gt;alert(1)" in body
    for reference in ("src=", "href=", "@import"):
        assert reference not in body
    assert len(page.encode()) < 2_000_000


def test_the_next_command_is_shown_only_where_there_is_a_horizon(page: str, request: pytest.FixtureRequest) -> None:
    drifting = "drifting" in request.node.callspec.id
    assert ("driftline extrapolate" in page) == drifting
    assert ("Forecasts are worth making" in page) == drifting


def test_what_to_do_next_is_what_advise_says(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path
) -> None:
    run = make_run(walk_weights(rng, list(range(0, 200, 10)), {"w": (40, 10)}, drift=0.5))
    backtest_command.run(make(Backtest, run=str(run), out=str(tmp_path / "out"), quiet=True))
    body = (tmp_path / "out" / "report.html").read_text().split("What to do next</h2>", 1)[1].split("</section>", 1)[0]
    told = advise_command.run(make(advise_command.Advise, run=str(run), quiet=True)).lines
    assert len(told) >= 4
    for line in told:
        assert str(escape(line.do)) in body


def test_a_grid_has_layers_down_modules_across_and_the_rest_below() -> None:
    places = [(1, "up"), (0, "up"), (0, "norm"), (None, "norm"), (1, "up")]
    rows, columns, (grid,) = layer_grid(places, [[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert rows == ["0", "1", "outside"]
    assert columns == ["up", "norm"]
    np.testing.assert_array_equal(grid, [[2.0, 3.0], [3.0, np.nan], [np.nan, 4.0]])
