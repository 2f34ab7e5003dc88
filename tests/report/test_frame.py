"""The frame of every page: foreign text is inert wherever it stands, commands are quoted once, the script is ours."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from driftline.report import charts, maps, page

HOSTILE = """</script><script>alert('1')</script><img src="x" onerror='y'>&amp;{{ 7 * 7 }}"""
REPORT = Path(page.__file__).parent


def everything() -> str:
    """A page with hostile text in every place that takes text."""
    cell = maps.Measure(np.array([[0.5]]), HOSTILE, lowest=-1.0)
    chart = charts.fragment(
        [charts.scatter([1], [1], HOSTILE, "lines", text=[HOSTILE])],
        "c",
        HOSTILE,
        HOSTILE,
        marks=[charts.vertical(1, HOSTILE), charts.horizontal(1, HOSTILE)],
    )
    body = [
        page.verdict(HOSTILE, True, [(HOSTILE, HOSTILE, HOSTILE)]),
        page.next_steps([(HOSTILE, ["driftline", "analyze", HOSTILE])]),
        page.section(HOSTILE, HOSTILE, chart + page.aid(HOSTILE), page.table([HOSTILE], [[HOSTILE]])),
        maps.heat_map([HOSTILE], [HOSTILE], cell),
        page.switch("s", HOSTILE, [HOSTILE], {"heat-map": [cell.restyled()]}),
        page.embedded("data", {HOSTILE: HOSTILE}),
        page.render("list.html", items=[HOSTILE]),
        page.render("tensor.html", charts=[("r2", HOSTILE, HOSTILE)], data=page.NOTHING),
        page.made(f"driftline analyze {HOSTILE}", [("step 3", HOSTILE)]),
    ]
    return page.document(HOSTILE, body)


def test_foreign_text_is_inert_everywhere() -> None:
    ours = page.document("t", [])
    written = everything()
    for tag in ("<script>", "</script>", "<img"):
        data = written.count('<script type="application/json"') if tag == "</script>" else 0
        assert written.count(tag) == ours.count(tag) + data, tag
    assert "{{ 7 * 7 }}" in html.unescape(written)  # not rendered a second time
    assert HOSTILE not in written
    assert html.unescape(written.split("<title>")[1].split("</title>")[0]) == HOSTILE


def test_labels_of_charts_hold_no_markup_for_plotly() -> None:
    for name in ("c-data", "heat-map-data", "s-choices"):
        (found,) = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', everything())
        assert "<img" not in json.dumps(json.loads(found), ensure_ascii=False)
        assert "&lt;img" in json.dumps(json.loads(found), ensure_ascii=False)


@pytest.mark.parametrize("word", ["a run", "it's", 'a "b"', "grün ∆", "$(x);&", "--", HOSTILE])
def test_a_command_reads_back_as_its_words(word: str) -> None:
    words = ["driftline", "backtest", word, "--out", f"{word}-backtest"]
    (code,) = re.findall("<code>(.*?)</code>", page.next_steps([("why", words)]), re.DOTALL)
    assert shlex.split(html.unescape(re.sub("<[^>]+>", "", code))) == words


def test_figures_that_are_no_numbers_are_null() -> None:
    drawn = charts.fragment(
        [charts.scatter(np.array([np.nan, 1.0]), [np.float32(2), np.inf], "n", "lines")], "c", "", ""
    )
    (trace,) = json.loads(drawn.split(">", 3)[3].rsplit("<", 1)[0])["data"]
    assert (trace["x"], trace["y"]) == ([None, 1.0], [2.0, None])


def test_no_template_marks_foreign_text_as_safe_and_no_module_writes_tags() -> None:
    for template in (REPORT / "templates").glob("*"):
        assert not re.search(r"\|\s*safe|autoescape|<script>[^{]", template.read_text()), template
    for module in REPORT.rglob("*.py"):
        code = re.sub(r"<extra></extra>", "", module.read_text())
        assert not re.search(r"</|<(div|p|td|tr|b|span|script|section|code)\b", code), module
        allowed = {"page.py"}
        assert module.name in allowed or "Markup(" not in code, module


def test_plotly_is_the_vendored_bundle_with_its_licence() -> None:
    script = (REPORT / "vendor" / "plotly-cartesian.min.js").read_text()
    assert f"plotly.js (cartesian - minified) v{page.PLOTLY_JS}" in script[:200]
    assert "MIT License" in (REPORT / "vendor" / "LICENSE").read_text()
    assert "</script" not in script.lower()
    assert "<!--" not in script
    assert f"plotly.js {page.PLOTLY_JS}" in everything()


def test_only_what_was_rendered_counts_as_markup() -> None:
    assert isinstance(page.joined([page.aid("a"), page.aid("b")]), Markup)
    assert page.joined(["<b>"]) == "&lt;b&gt;"  # type: ignore[list-item]
