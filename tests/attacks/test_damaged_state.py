"""What a command left behind to go on from, damaged or replaced by what is no file: a sentence that says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attack import save_run
from test_places import IRREGULARS, Put, folder

import driftline as package
from driftline.decoding.generate import generate, settings_file
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.evaluation.samples import Samples
from driftline.evaluation.tasks.registry import open_task
from driftline.files.work import Work
from driftline.training.driver import _seconds
from driftline.watching.request import Following
from driftline.watching.watch import watch


def text(content: bytes) -> Put:
    def put(path: Path) -> None:
        path.write_bytes(content)

    return put


DAMAGED = {
    "pipe": IRREGULARS[0],
    "device": IRREGULARS[1],
    "socket": IRREGULARS[2],
    "folder": folder,
    "empty": text(b""),
    "cut": text(b'{"late": '),
    "no text": text(b"\xff\xfe"),
    "list": text(b"[1]"),
    "number": text(b"7"),
    "deep": text(b"[" * 100_000),
    "digits": text(b'{"late": ' + b"9" * 5000 + b"}"),
}
put_damaged = pytest.mark.parametrize("put", DAMAGED.values(), ids=DAMAGED)


@pytest.fixture
def sampling(tmp_path: Path) -> Callable[..., object]:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w5"}\n')
    settings = GenerationSettings(late=str(tmp_path / "model"))
    return lambda out, **how: generate(tmp_path / "prompts.jsonl", out, settings, **how)


@put_damaged
def test_of_the_settings_of_samples(tmp_path: Path, put: Put, sampling: Callable[..., object]) -> None:
    (tmp_path / "out.jsonl").write_text('{"index": 0, "sample": 0}\n')
    put(settings_file(tmp_path / "out.jsonl"))
    with pytest.raises(InputError, match=r"says how the rows were made, is damaged \(.+\): add --overwrite"):
        sampling(tmp_path / "out.jsonl")


@pytest.mark.parametrize("put", IRREGULARS)
def test_of_samples_that_are_no_file(tmp_path: Path, put: Put, sampling: Callable[..., object]) -> None:
    put(tmp_path / "out.jsonl")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not a regular file, and rows are appended to it: give a file"):
            sampling(tmp_path / "out.jsonl", overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "prompts.jsonl"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[" * 100_000,
        b"[1]",
        b"9" * 5000,
        b'{"index": 0, "sample": 0}',
        b'{"index": 0, "sample": 0, "response": "", "response_ids": 7, "finish_reason": "stop", "score": 1}',
        b'{"index": 0, "sample": 0, "response": "", "response_ids": [], "finish_reason": "stop", "score": "1"}',
    ],
    ids=range(7),
)
def test_of_the_samples_of_an_evaluation(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "model.jsonl").write_bytes(line + b"\n")
    samples = Samples(tmp_path / "model.jsonl", open_task("sums", problems=1), GenerationSettings(late="model"))
    with pytest.raises(InputError, match=r"model\.jsonl, line 1, is damaged \(.+\): remove the file"):
        samples.rows(1)


@put_damaged
def test_of_the_finished_steps_of_log_probs(tmp_path: Path, put: Put) -> None:
    work = Work(tmp_path / "out", {"kind": "logprobs"})
    work.save(10, np.arange(3.0))
    assert work.load(10) is not None
    (work.folder / "10.npy").unlink()
    put(work.folder / "10.npy")
    assert work.load(10) is None  # it is made again


@put_damaged
def test_of_the_request_of_log_probs(tmp_path: Path, put: Put) -> None:
    work = Work(tmp_path / "out", {"kind": "logprobs"})
    (work.folder / "request.json").unlink()
    put(work.folder / "request.json")
    assert list(Work(tmp_path / "out", {"kind": "logprobs"}).folder.iterdir()) == [work.folder / "request.json"]


def look(run: Path, out: Path) -> None:
    following = Following((str(run),), settle=0, once=True)
    watch(following, out, show=lambda line: None, say=lambda sentence: None)


@put_damaged
@pytest.mark.parametrize("name", ["plan/plan.json", "refused.json", "passed.json", "rows/10/row.json"])
def test_of_a_watch(tmp_path: Path, name: str, put: Put) -> None:
    run, out = save_run(tmp_path / "run"), tmp_path / "out"
    look(run, out)
    file = out / "state" / name
    file.unlink(missing_ok=True)
    put(file)
    with pytest.raises(InputError, match=f"{out}/state.*(to begin again|choose another folder)$"):
        look(run, out)


@pytest.mark.parametrize("put", [*IRREGULARS, folder])
def test_of_a_summary_of_a_watch_that_is_no_file(tmp_path: Path, put: Put) -> None:
    run, out = save_run(tmp_path / "run"), tmp_path / "out"
    look(run, out)
    (out / "summary.json").unlink()
    put(out / "summary.json")
    with pytest.raises(InputError, match=r"summary\.json cannot be read \(.+\): remove it"):
        look(run, out)


@pytest.mark.parametrize("content", [b"", b"[1]", b"[" * 100_000, b'{"n": ' + b"9" * 5000], ids=range(4))
def test_a_damaged_summary_of_a_watch_is_written_again(tmp_path: Path, content: bytes) -> None:
    run, out = save_run(tmp_path / "run"), tmp_path / "out"
    look(run, out)
    (out / "summary.json").write_bytes(content)
    look(run, out)
    assert json.loads((out / "summary.json").read_bytes())["steps"] == [0, 10, 20]


@put_damaged
def test_of_the_configuration_of_a_forecast(tmp_path: Path, put: Put) -> None:
    """It is the run's own, but damage to it would be damage to what is written."""
    run = save_run(tmp_path / "run")
    config = run / "checkpoint-20" / "config.json"
    config.unlink()
    put(config)
    with pytest.raises(
        InputError, match=r"config\.json is no configuration \(.+\), .* remove it to write weights alone"
    ):
        package.extrapolate(run, tmp_path / "model", to=30)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_without_a_configuration_are_written_alone(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    (run / "checkpoint-20" / "config.json").unlink()
    package.extrapolate(run, tmp_path / "model", to=30)
    assert not (tmp_path / "model" / "config.json").exists()


@put_damaged
def test_of_a_cycle_of_re_grounding(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "trained.json")
    with pytest.raises(InputError, match=r"trained\.json is damaged \(.+\): remove .* to train that cycle again"):
        _seconds(tmp_path / "trained.json")


@put_damaged
@pytest.mark.parametrize("name", ["summary.json", "tensors.parquet"])
def test_of_an_analysis(tmp_path: Path, name: str, put: Put) -> None:
    run = save_run(tmp_path / "run")
    package.analyze(run, tmp_path / "analysis")
    os.unlink(tmp_path / "analysis" / name)
    put(tmp_path / "analysis" / name)
    with pytest.raises(InputError, match=r"is not a result of driftline analyze \(.+\): give its --out folder"):
        package.advise(run, analysis=tmp_path / "analysis")
