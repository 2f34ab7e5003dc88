"""SIGKILL while models are sampled: whole rows are kept, and the same call ends as one that was never stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from killing import finished, killed
from msgspec.structs import replace

from driftline.decoding.generate import settings_file
from driftline.evaluation.records import EvaluationRecord, SweepRecord
from driftline.files.record import Record, read_record
from driftline.lab.model import shipped_base
from driftline.linearity.summary import Cost, read_summary

KILLS = 10  # of evaluate, sweep and rollouts each
SHAPE = ["--samples", "2", "--batch-size", "4", "--max-new-tokens", "12", "--temperature", "1.0", "--quiet"]


# -- commands that add to a file


def prompts_in(folder: Path) -> Path:
    file = folder / "prompts.jsonl"
    pairs = [(a, b) for a in range(10, 14) for b in range(20, 23)]
    file.write_text("".join(json.dumps({"prompt": f"{a}+{b}="}) + "\n" for a, b in pairs))
    return file


def whole_rows(file: Path) -> list[str]:
    text = file.read_text() if file.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("command", "kills"), [(["generate", "--late"], 50), (["rollouts"], KILLS)], ids=["generate", "rollouts"]
)
def test_samples_that_are_killed_go_on(
    rng: np.random.Generator, tmp_path: Path, command: list[str], kills: int
) -> None:
    """Whole rows are right whenever it is killed; the same call ends with the file of a call that was never stopped."""
    prompts = prompts_in(tmp_path)
    place = tmp_path / "place"
    place.mkdir()

    def words(out: Path) -> list[str]:
        return [*command, str(shipped_base()), "--prompts", str(prompts), "--out", str(out), *SHAPE]

    def has(rows: int) -> bool:
        return len(whole_rows(out)) >= rows

    finished(words(tmp_path / "reference.jsonl"))
    reference = (tmp_path / "reference.jsonl").read_text().splitlines()
    assert len(reference) == 24
    out, killings, cut_short, done = place / "out.jsonl", 0, 0, 0
    while killings < kills:
        goal = int(rng.integers(0, len(reference) + 1))
        killings += killed(words(out), rng.uniform(0, 0.2), once=partial(has, goal))
        rows = whole_rows(out)
        assert rows == reference[: len(rows)]
        cut_short += 0 < len(rows) < len(reference)
        if len(rows) == len(reference):
            done += 1
            finished(words(out))
            assert out.read_text().splitlines() == reference
            out.unlink()
            if done % 2:  # what is left of a file that was removed is in nobody's way
                settings_file(out).unlink()
    finished(words(out))
    assert out.read_text().splitlines() == reference
    assert sorted(place.iterdir()) == [out, settings_file(out)]
    assert cut_short >= kills // 10
    assert done >= 1


# -- commands that make a folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints: the lab's base without and with noise, that with the noise first."""
    import torch

    from driftline.lab.model import load

    folder = tmp_path_factory.mktemp("models") / "run"
    model, tokenizer = load(shipped_base())
    torch.manual_seed(0)
    model.save_pretrained(folder / "checkpoint-20")
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.1 * weights.std() * torch.randn_like(weights)
    model.save_pretrained(folder / "checkpoint-0")
    for step in (0, 20):
        tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return folder


def evaluate_words(run: Path, out: Path) -> list[str]:
    models = ["--early", str(run / "checkpoint-0"), "--late", str(run / "checkpoint-20"), "--alpha", "1.5"]
    return ["evaluate", *models, "--task", "sums", "--problems", "6", "--out", str(out), *SHAPE]


def sweep_words(run: Path, out: Path) -> list[str]:
    targets = ["--to", "25,30,40", "--observed", "2"]
    return ["sweep", str(run), *targets, "--task", "sums", "--problems", "6", "--out", str(out), *SHAPE]


def evaluation_in(out: Path) -> tuple[Record, str]:
    """All but how long it took."""
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "samples.jsonl"]
    record = read_record(out / "evaluation.json", EvaluationRecord, what="driftline evaluate")
    return replace(record, seconds=0.0), (out / "samples.jsonl").read_text()


def sweep_in(out: Path) -> tuple[Record, str]:
    """The same; of the page, that it is whole."""
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "sweep.json"]
    record = read_record(out / "sweep.json", SweepRecord, what="driftline sweep")
    return replace(record, seconds=0.0), (out / "report.html").read_text().rstrip()[-7:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("words", "read", "rows"),
    [
        (evaluate_words, evaluation_in, 3 * 12 + 2 * 6),  # three arms are sampled twice, two are greedy
        (sweep_words, sweep_in, (3 + 2) * 12 + 12 + 2 * 6),  # three targets, two checkpoints, and their controls
    ],
    ids=["evaluate", "sweep"],
)
def test_results_that_are_killed_are_complete_or_absent_and_go_on(
    tmp_path: Path,
    run: Path,
    words: Callable[[Path, Path], list[str]],
    read: Callable[[Path], tuple[Record, str]],
    rows: int,
) -> None:
    """Killed after every so many samples, while the result is written, and when it is there."""
    place = tmp_path / "place"
    place.mkdir()
    out, work = place / "out", place / ".out.work"
    finished(words(run, tmp_path / "reference"))
    reference = read(tmp_path / "reference")

    def drawn() -> int:
        return sum(len(whole_rows(file)) for file in work.glob("*.jsonl"))

    def writes() -> bool:
        return out.exists() or any(place.glob(".out.partial-*/*"))

    moments: list[Callable[[], bool]] = [
        *(partial(lambda count: drawn() >= count or writes(), count) for count in np.linspace(0, rows, KILLS - 2)),
        writes,
        out.exists,
    ]
    cut_short = killings = 0
    for once in moments * 2:
        if killings == KILLS:
            break
        killings += killed(words(run, out), 0.0, once=once)
        assert all(path == out or path.name.startswith((".out.partial-", ".out.work")) for path in place.iterdir())
        cut_short += 0 < drawn() < rows
        if out.exists():
            assert read(out) == reference
            shutil.rmtree(out)
    finished(words(run, out))
    assert read(out) == reference
    assert list(place.iterdir()) == [out]
    assert killings == KILLS
    assert cut_short >= 3


# -- commands that measure what models put out, checkpoint by checkpoint


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints: the lab's base moved along one direction; and a file of rollouts beside them."""
    import torch

    from driftline.lab.model import load

    folder = tmp_path_factory.mktemp("line")
    model, tokenizer = load(shipped_base())
    torch.manual_seed(0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    direction = {name: 1e-4 * torch.randn_like(value) for name, value in start.items()}
    for step in range(0, 50, 10):
        model.load_state_dict({name: value + step * direction[name] for name, value in start.items()})
        model.tie_weights()
        model.save_pretrained(folder / "run" / f"checkpoint-{step}")
    tokenizer.save_pretrained(folder / "run" / "checkpoint-40")
    rows = [json.dumps({"prompt": f"{a}+31+10=", "response": f"{a + 31};{a + 41}"}) for a in range(20, 29)]
    (folder / "rollouts.jsonl").write_text("\n".join(rows))
    return folder


FILES = {
    "logprobs": ["report.html", "sequences.parquet", "summary.json", "tokens.parquet"],
    "activations": ["activations.parquet", "report.html", "summary.json"],
}


def measured_in(out: Path, command: str) -> Record:
    """All but how long it took."""
    assert sorted(path.name for path in out.iterdir()) == FILES[command]
    assert (out / "report.html").read_text().rstrip().endswith("</html>")
    return replace(read_summary(out), cost=Cost())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", list(FILES))
def test_measurements_that_are_killed_are_complete_or_absent_and_go_on(
    tmp_path: Path, line: Path, command: str
) -> None:
    """Killed after each checkpoint, while the result is written, and when it is there."""
    place = tmp_path / "place"
    place.mkdir()
    out, work = place / "out", place / ".out.work"

    def words(out: Path) -> list[str]:
        rollouts = ["--rollouts", str(line / "rollouts.jsonl")]
        return [command, str(line / "run"), *rollouts, "--out", str(out), "--quiet"]

    def measured() -> int:
        return len(list(work.glob("*.npy")))

    def writes() -> bool:
        return out.exists() or any(place.glob(".out.partial-*/*"))

    def at_least(count: int) -> bool:
        return measured() >= count or writes()

    finished(words(tmp_path / "reference"))
    reference = measured_in(tmp_path / "reference", command)
    moments: list[Callable[[], bool]] = [*(partial(at_least, count) for count in (1, 2, 4, 5)), writes, out.exists]
    cut_short = 0
    for once in moments:
        killed(words(out), 0.0, once=once)
        assert all(path == out or path.name.startswith((".out.partial-", ".out.work")) for path in place.iterdir())
        cut_short += measured() > 0 and not out.exists()
        if out.exists():
            assert measured_in(out, command) == reference
            shutil.rmtree(out)
    finished(words(out))
    assert measured_in(out, command) == reference
    assert list(place.iterdir()) == [out]
    assert cut_short >= 2
