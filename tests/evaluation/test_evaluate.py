"""Evaluation end to end with a real model: its figures, its controls, resumption, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_samplers import base_sampler, sharpened_sampler
from msgspec.structs import replace as replaced

from driftline.decoding.backends.embedded import Embedded
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.evaluation import evaluate as room
from driftline.evaluation.records import EvaluationRecord
from driftline.evaluation.tasks import Task, open_task
from driftline.files.output import output_folder
from driftline.files.record import read_record, record_text
from driftline.lab.model import shipped_base

SETTINGS = GenerationSettings(late="base", temperature=1.0, top_p=1.0, samples=4, max_new_tokens=16, seed=1)
EXTRAPOLATED = replace(SETTINGS, early="zero", alpha=2.0)


@pytest.fixture(scope="module")
def base() -> Embedded:
    return Embedded(base_sampler())


@pytest.fixture(scope="module")
def sharpened() -> Embedded:
    return Embedded(sharpened_sampler(), 96)


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task("sums", problems=24, seed=0)


def evaluate(
    task: Task, out: Path, settings: GenerationSettings, *, overwrite: bool = False, **more: Any
) -> EvaluationRecord:
    """As the command has it: the result is written into `out`, and what it was made of goes."""
    with output_folder(out, overwrite=overwrite, mark=room.MARK) as folder:
        found = room.evaluate(task, out, settings, **more)
        found.write(folder)
    return found.record


def rows_of(out: Path, arm: str) -> list[dict]:
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return [row for row in rows if row["arm"] == arm]


def test_a_model_and_its_figures(tmp_path, task, base) -> None:
    out = tmp_path / "out"
    record = evaluate(task, out, SETTINGS, decoder=base)
    assert record == read_record(out / "evaluation.json", EvaluationRecord, what="driftline evaluate")
    assert (out / "evaluation.json").read_text() == record_text(record)
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "samples.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no work is left
    rows = rows_of(out, "model")
    assert [(row["index"], row["sample"]) for row in rows] == [(i, k) for i in range(24) for k in range(4)]
    right = np.array([task.score(row["response"], row["index"]) for row in rows]).reshape(24, 4)
    assert [row["score"] for row in rows] == right.ravel().tolist()
    assert record["avg@k"] == pytest.approx(right.mean()) == record["pass@k"]["1"] == record["mean_score"]
    assert record["pass@k"]["4"] == pytest.approx(right.any(1).mean())
    assert set(record["pass@k"]) == {"1", "2", "4"}
    low, high = record["interval"]
    assert 0 < low < record["avg@k"] < high < 1
    assert 0.15 < record["avg@k"] < 0.6  # the base errs when sampled
    assert record["response_tokens"] == pytest.approx(np.mean([len(row["response_ids"]) for row in rows]))
    assert record["truncated"] == np.mean([row["finish_reason"] == "length" for row in rows])
    for key, value in {"task": "sums", "problems": 24, "samples": 4, "temperature": 1.0, "late": "base"}.items():
        assert record[key] == value
    assert record["versions"]["torch"]
    assert "control" not in record


def test_greedy_the_base_knows_its_sums(tmp_path, task, base) -> None:
    record = evaluate(task, tmp_path / "out", replace(SETTINGS, temperature=0.0, samples=1), decoder=base)
    assert record["avg@k"] > 0.9
    assert record["pass@k"] == {"1": record["avg@k"]}


class Stopped(Exception):
    pass


def stop_after(count: int):
    """A progress that stops the work after so many samples."""
    seen = 0

    def start(what: str, total: int):
        def advance(rows: int) -> None:
            nonlocal seen
            seen += rows
            if seen >= count:
                raise Stopped

        return advance

    return start


@pytest.mark.parametrize("torn", [b"", b'{"index": 9, "sa'])
def test_a_stopped_evaluation_goes_on(tmp_path, task, base, torn: bytes) -> None:
    whole = evaluate(task, tmp_path / "whole", SETTINGS, decoder=base)
    out, asked = tmp_path / "out", []
    with pytest.raises(Stopped):
        evaluate(task, out, SETTINGS, decoder=base, progress=stop_after(40))
    assert not out.exists()
    with open(tmp_path / ".out.work" / "model.jsonl", "ab") as file:
        file.write(torn)

    def count(what: str, total: int):
        asked.append(total)
        return lambda rows: None

    record = evaluate(task, out, SETTINGS, decoder=base, progress=count)
    assert asked == [96 - 48]  # three batches of 16 were done
    assert (out / "samples.jsonl").read_text() == (tmp_path / "whole" / "samples.jsonl").read_text()
    assert replaced(record, seconds=0) == replaced(whole, seconds=0)
    assert not (tmp_path / ".out.work").exists()


def test_work_for_another_request_is_not_used(tmp_path, task, base) -> None:
    with pytest.raises(Stopped):
        evaluate(task, tmp_path / "out", SETTINGS, decoder=base, progress=stop_after(40))
    other = replace(SETTINGS, seed=2)
    evaluate(task, tmp_path / "out", other, decoder=base)
    evaluate(task, tmp_path / "fresh", other, decoder=base)
    assert (tmp_path / "out" / "samples.jsonl").read_text() == (tmp_path / "fresh" / "samples.jsonl").read_text()


def test_extrapolation_that_only_sharpens_is_called_so(tmp_path, task, sharpened) -> None:
    record = evaluate(task, tmp_path / "out", EXTRAPOLATED, decoder=sharpened)
    control = record["control"]
    assert control["late_matched"]["temperature"] == pytest.approx(0.5, rel=1e-3)  # alpha 2 doubles the logits
    assert control["gain"]["mean"] == pytest.approx(record["avg@k"] - control["late"]["avg@k"])
    assert control["gain"]["p_value"] < 0.01
    assert control["gain"]["mean"] > 0.1
    assert control["beyond_sharpening"]["p_value"] > 0.05
    assert control["verdict"] == "sharpening"
    assert "counts as sharpening" in control["sentence"]
    assert control["greedy"]["forecast"] == control["greedy"]["late"] > 0.9
    arms = {"forecast": 96, "late": 96, "late-matched": 96, "forecast-greedy": 24, "late-greedy": 24}
    assert {arm: len(rows_of(tmp_path / "out", arm)) for arm in arms} == arms


def test_without_the_control_only_the_forecast_arm_is_drawn(tmp_path, task, sharpened) -> None:
    record = evaluate(task, tmp_path / "out", EXTRAPOLATED, control=False, decoder=sharpened)
    assert "control" not in record
    assert len(rows_of(tmp_path / "out", "forecast")) == 96


def test_greedy_extrapolation_is_compared_with_greedy(tmp_path, task, sharpened) -> None:
    settings = replace(EXTRAPOLATED, temperature=0.0, samples=1)
    control = evaluate(task, tmp_path / "out", settings, decoder=sharpened)["control"]
    assert control["verdict"] == "nothing"  # the same tokens are likeliest
    assert control["gain"] == control["beyond_sharpening"]
    assert control["late_matched"]["temperature"] == 0
    assert "greedy" not in control


def test_a_model_beside_another_is_better_beyond_sharpening(tmp_path, task, base) -> None:
    """At temperature .3 the base of sums is nearly always right; that of strategy answers directly and wrong, however sure."""
    settings = replace(SETTINGS, temperature=0.3)
    beside = str(shipped_base("strategy"))
    record = evaluate(task, tmp_path / "out", settings, beside=beside, decoder=base)
    assert record.beside == beside
    control = record.control
    assert control
    assert control.verdict == "gain"
    assert control.greedy
    assert control.greedy["forecast"] > 0.9
    assert control.greedy["late"] < 0.3
    low, high = control.beyond_sharpening.interval
    assert 0.3 < low < control.beyond_sharpening.mean < high
    assert f"beyond sharpening, by {control.beyond_sharpening.mean:+.3f} over that" in control.sentence
    alone = evaluate(task, tmp_path / "alone", settings, beside=beside, control=False, decoder=base)
    assert "control" not in alone


def test_extrapolated_decoding_has_its_late_model_beside_it_already(tmp_path, task, sharpened) -> None:
    with pytest.raises(InputError, match="leave it out"):
        evaluate(task, tmp_path / "out", EXTRAPOLATED, beside="x", decoder=sharpened)


def test_two_models_on_the_same_problems(tmp_path, task, base) -> None:
    sampled = evaluate(task, tmp_path / "sampled", SETTINGS, decoder=base)
    greedy = replace(SETTINGS, temperature=0.0, samples=1)
    against = evaluate(task, tmp_path / "greedy", greedy, against=tmp_path / "sampled", decoder=base)["against"]
    assert against["avg@k"] == pytest.approx(sampled["avg@k"])
    assert against["difference"]["mean"] > 0.3
    assert against["difference"]["p_value"] < 0.001
    assert against["difference"]["interval"][0] > 0.2
    with pytest.raises(InputError, match="is of other problems than --task sums"):
        evaluate(open_task("sums", problems=9), tmp_path / "x", SETTINGS, against=tmp_path / "sampled", decoder=base)
    with pytest.raises(InputError, match="holds no evaluation"):
        evaluate(task, tmp_path / "x", SETTINGS, against=tmp_path, decoder=base)
    (tmp_path / "sampled" / "samples.jsonl").write_text('{"arm": "model"}\n')
    with pytest.raises(InputError, match="is damaged"):
        evaluate(task, tmp_path / "x", SETTINGS, against=tmp_path / "sampled", decoder=base)
    assert not (tmp_path / "x").exists()


def test_a_file_of_the_users_own(tmp_path, base) -> None:
    path = tmp_path / "task.jsonl"
    rows = [{"prompt": "21+28+15=", "answer": "64"}, {"prompt": "10+10+10=", "answer": "31"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = open_task(str(path), extraction="hash")
    record = evaluate(own, tmp_path / "out", replace(SETTINGS, temperature=0.0, samples=1), decoder=base)
    assert [row["score"] for row in rows_of(tmp_path / "out", "model")] == [1, 0]
    assert (record["extraction"], record["verifier"]) == ("hash", "math")


def test_bad_requests_leave_nothing(tmp_path, task, base) -> None:
    out = tmp_path / "out"
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps({"prompt": "1+" * 40, "answer": "1"}) + "\n")
    with pytest.raises(InputError, match="problem 0, has 80 tokens and the model's context is 64"):
        evaluate(open_task(str(path)), out, SETTINGS, decoder=base)
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "1"}], "answer": "1"}) + "\n")
    with pytest.raises(InputError, match="has messages, but the model has no chat template"):
        evaluate(open_task(str(path)), out, SETTINGS, decoder=base)
    with pytest.raises(InputError, match="--batch-size is 0"):
        evaluate(task, out, SETTINGS, batch_size=0, decoder=base)
    assert [file.name for file in tmp_path.iterdir()] == ["task.jsonl"]
    out.mkdir()
    (out / "mine.txt").write_text("")
    for overwrite, complaint in ((False, "is not empty"), (True, "did not write")):
        with pytest.raises(InputError, match=complaint):
            evaluate(task, out, SETTINGS, overwrite=overwrite, decoder=base)
    with pytest.raises(InputError, match="--early needs --alpha"):
        evaluate(task, tmp_path / "x", replace(SETTINGS, early="y"))
