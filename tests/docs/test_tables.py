"""Tables of results in the documentation are those of the records beside it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from evidence import EVIDENCE, RATES, SUMMARIES, over_seeds, power, rates, table_of  # noqa: E402
from tables import DOCUMENTS, RECORDS, Table, cell, read, rendered  # noqa: E402

_MARKED = re.compile(r"<!-- table: (\S+) -->.*?<!-- end of table -->", re.DOTALL)


@pytest.mark.parametrize("document", [pytest.param(d, id=d.name) for d in DOCUMENTS])
def test_the_tables_are_what_the_records_say(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert rendered(text) == text, "run make tables"
    if document.name in ("findings.md", "RESULTS.md"):
        assert "|---" not in _MARKED.sub("", text), "a table of results has a record"


def test_every_record_is_shown_and_says_where_it_is_from() -> None:
    shown = {name for document in DOCUMENTS for name in _MARKED.findall(document.read_text(encoding="utf-8"))}
    records = [*EVIDENCE.glob("*.json"), *RECORDS.glob("*.json")]
    assert {str(record.relative_to(ROOT)) for record in records} == shown
    for record in records:
        table = read(record)
        assert table.command
        assert table.source
        keys = {column["key"] for column in table.columns}
        assert all(set(row) <= keys for row in table.rows)


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_study_makes_its_record_anew(name: str, tmp_path: Path) -> None:
    study = json.loads((ROOT / "tests" / "records" / "former" / f"study-{name}.json").read_text(encoding="utf-8"))
    before = read(EVIDENCE / f"{name}.json")
    table = table_of(study, before)
    kept = {"accuracy"} if name == "robustness" else set()  # which study.json does not hold
    assert {column["key"] for column in before.columns} - {column["key"] for column in table.columns} == kept
    table.keep(tmp_path / "record.json")
    assert read(tmp_path / "record.json").markdown() == table.markdown()
    assert len(table.markdown().splitlines()) > 2


def test_a_study_of_rates_makes_a_row_for_each_batch_and_seed() -> None:
    study = json.loads((ROOT / "tests" / "records" / "former" / "study-rates.json").read_text(encoding="utf-8"))
    rows = rates(study)
    assert [(row["batch"], row["seed"]) for row in rows] == [(2, 0)]
    assert set(rows[0]) == {column["key"] for column in RATES}
    assert [power(rate) for rate in (1e-4, 1.64e-4, 3e-10, None)] == ["1e-4", "1.6e-4", "3e-10", None]


def test_what_was_predicted_is_kept_beside_what_came() -> None:
    """Every prediction of the tables is in the file that was written before the runs."""
    for name in ("rates", "rates-strategy"):
        written = json.loads((EVIDENCE / name / "predictions.json").read_text(encoding="utf-8"))["predictions"]
        told = {(p.get("kind", ""), p["batch"], p["seed"], p["model"]): p["factor"] * p["rate"] for p in written}
        for row in read(EVIDENCE / f"{name}.json").rows:
            for model in ("plain", "through momentum", "through momentum, settled"):
                limit = power(told[row.get("kind", ""), row["batch"], row["seed"], model])
                assert row[f"limit {model}"].startswith(f"{limit} (")


def test_cells() -> None:
    column = {"decimals": 2}
    assert cell(0.5, column) == "0.50"
    assert cell(-0.06, column, zero=False) == "-.06"
    assert cell({"median": 0.66, "low": 0.64, "high": 0.67}, column, zero=False) == ".66 (.64 to .67)"
    assert cell({"median": 80, "low": 76, "high": 80, "never": 1}, {"decimals": 0}) == "80 (76 to 80, 1 never)"
    assert cell({"median": None, "never": 3}, column) == "- (never)"
    assert cell({"low": 0.26, "high": 0.34}, column, zero=False) == ".26 to .34"
    assert cell([0.0, -0.38], column, zero=False) == ".00, -.38"
    assert [cell(share, {"percent": True}, zero=False) for share in (0.0004, 0.028, 0.3, 1)] == [
        ".04 %",
        "2.8 %",
        "30 %",
        "100 %",
    ]
    assert (cell(None, column), cell("3 of 3", column), cell(4.233, {"digits": 2})) == ("", "3 of 3", "4.2")
    assert [cell(rate, {"digits": 3}) for rate in (1058.3, 180.2, 23.14)] == ["1058", "180", "23.1"]
    table = Table(
        "c", [{"key": "what", "title": ""}, {"key": "s", "title": "s"}], [{"what": "a", "s": 1.5}, {"what": "bb"}]
    )
    assert table.markdown() == "| | s |\n|---|---|\n| a | 1.5 |\n| bb | |"
    assert table.text() == "      s\na   1.5\nbb"


def test_figures_over_seeds() -> None:
    assert over_seeds([0.5, 0.501, 0.502]) == 0.501
    assert over_seeds([0.1, 0.3, 0.2]) == {"median": 0.2, "low": 0.1, "high": 0.3}
    assert over_seeds([None, 8.0, 14.0], 0) == {"median": 14.0, "low": 8.0, "high": 14.0, "never": 1}
    assert over_seeds([None, None]) is None
