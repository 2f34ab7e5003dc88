"""Report pages are self-contained, and nothing from a checkpoint reaches them as markup."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.linearity.analysis import analyze
from driftline.report import analysis
from driftline.report.page import number, table

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def page(make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path) -> str:
    shapes = {f"model.layers.{i}.{MARKUP}.weight": (20, 20) for i in range(2)} | {f"{MARKUP}.weight": (30,)}
    run = walk_weights(rng, list(range(0, 80, 10)), shapes, drift=0.3)
    for step in run:
        run[step] |= {f"left{MARKUP}": np.ones(3 + step)}
    folder = make_run(run, run=MARKUP.replace("/", ""))
    summary = analyze(open_trajectory(folder), tmp_path)
    analysis.write(tmp_path, summary, command=f"driftline analyze '{MARKUP}' --out x")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_markup_in_names_and_paths_is_escaped(page: str) -> None:
    assert MARKUP not in page
    assert "&lt;img src=x" in page
    assert "<img" not in page.split("</script>", 1)[1]


def test_the_page_is_self_contained_and_small(page: str) -> None:
    body = page.split("</script>", 1)[1]  # after plotly's own code
    for reference in ("src=", "href=", "@import", "url("):
        assert reference not in body.replace("src=x onerror", "")
    assert page.count("<script>") >= 1
    assert len(page.encode()) < 2_000_000


def test_the_page_has_every_section(page: str) -> None:
    for chart in ("r2-histogram", "heat-map", "tensor-samples", "growth", "cosines", "plane", "segments", "rounding"):
        assert f'id="{chart}"' in page
    for title in (
        "R² of every parameter",
        "Where in the model",
        "How the update grows",
        "What was left out",
        "How this page was made",
    ):
        assert title in page


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.50"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (1e-5, "<0.01"),
        (-1e-5, ">-0.01"),
        (0.005, "0.01"),
        (-float("inf"), "-∞"),
        (2.5e7, "2.50e+07"),
        (0.0, "0.00"),
        (12345, "12,345"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_read_well(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_a_figure_that_chance_makes_tiny_reads_as_people_write_it() -> None:
    shown = table(["", "this run", "chance"], [("cosine", 0.81, 5.083e-07), ("skill", -0.2, -3e-9), ("rank", 0.9, 0.4)])
    assert "&lt;0.001" in shown
    assert "&gt;-0.001" in shown
    assert "e-0" not in shown


def test_a_column_of_small_quantities_keeps_their_size() -> None:
    shown = table(["since start", "norm"], [(1.0, 0.00031), (2.0, 1.26e-5), (3.0, None), (4.0, 0.0)])
    assert all(f'<td class="n">{cell}</td>' in shown for cell in ("0.00031", "1.26e-05", "–", "0", "1.000"))


def test_tables_escape_their_cells() -> None:
    assert "<b>" not in table(["<b>"], [("<b>", 1.0)])
