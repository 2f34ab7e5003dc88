"""The learning rate from what trainers leave: the clock drawn from it is that of the rates that were used."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driftline.checkpoints.configuration import advancing, clock_at, clock_values, learning_rates, schedule_end
from driftline.checkpoints.learning_rate import Rates
from driftline.errors import InputError

STEPS = (10, 20, 30, 40, 50, 60, 70, 80)
USED = {step: 1e-5 * (1 - (step - 1) / 80) for step in range(1, 81)}  # linear decay to 0, transformers' default


@dataclass(frozen=True)
class SavedRun:
    """Folders of checkpoints without weights."""

    folders: tuple[Path, ...]
    name: str = "run"
    steps: tuple[int, ...] = STEPS
    regrounded: None = None


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    folders = tuple(tmp_path / f"checkpoint-{step}" for step in STEPS)
    for folder in folders:
        folder.mkdir()
    return SavedRun(folders)


def trained(save: Callable[[int, Any, Any], None], factor: Callable[[int], float] = lambda done: 1 - done / 80) -> None:
    """Real steps of torch's optimizer and scheduler, saved at every tenth."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=1e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for step in range(1, 81):
        optimizer.step()
        scheduler.step()
        if step in STEPS:
            save(step, optimizer, scheduler)


LAYOUTS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "transformers": ("scheduler.pt", lambda o, s: s.state_dict()),
    "transformers' optimizer": ("optimizer.pt", lambda o, s: o.state_dict()),
    "accelerate": ("scheduler.bin", lambda o, s: s.state_dict()),
    "verl": (
        "actor/extra_state_world_size_2_rank_0.pt",
        lambda o, s: {"lr_scheduler": s.state_dict(), "rng": {"cpu": torch.get_rng_state()}},
    ),
    "SkyRL": (
        "policy/extra_state_world_size_2_rank_0.pt",
        lambda o, s: {"lr_scheduler": s.state_dict(), "client_state": {}, "rank": 0},
    ),
    "DeepSpeed": (
        "global_step{step}/mp_rank_00_model_states.pt",
        lambda o, s: {"module": {}, "optimizer": None, "lr_scheduler": s.state_dict(), "global_steps": 3},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_states_give_the_clock_of_the_rates_that_were_used(run: SavedRun, layout: str) -> None:
    name, state = LAYOUTS[layout]

    def save(step: int, optimizer: Any, scheduler: Any) -> None:
        path = run.folders[STEPS.index(step)] / name.format(step=step)
        path.parent.mkdir(exist_ok=True)
        torch.save(state(optimizer, scheduler), path)

    trained(save)
    clock = clock_at(run, "lr", STEPS)
    used = np.array([sum(USED[k] for k in range(11, step + 1)) for step in STEPS])
    np.testing.assert_allclose(clock - clock[0], used, rtol=1e-9)
    assert list(learning_rates(run)) == list(STEPS)
    assert schedule_end(run) == 80
    with pytest.raises(
        InputError, match=r"the learning rate is 0 at step 80, .* never reaches step 81: use --clock step"
    ):
        clock_at(run, "lr", [81])


ROWS: dict[str, Callable[[int, float], dict[str, Any]]] = {
    "plain": lambda step, rate: {"step": step, "loss": 0.1, "learning_rate": rate},
    "torchtune": lambda step, rate: {"global_step": step, "lr": rate},
    "verl": lambda step, rate: {"step": step, "data": {"critic/lr": 1.0, "actor/lr": rate}},
    "wandb": lambda step, rate: {"train/global_step": step, "train/learning_rate": rate},
    "LLaMA-Factory": lambda step, rate: {"current_steps": step, "total_steps": 80, "lr": rate},
    "ms-swift": lambda step, rate: {"global_step/max_steps": f"{step}/80", "learning_rate": rate},
    "prime-rl": lambda step, rate: {"step": step, "optim/lr": rate},
}


@pytest.mark.parametrize("kind", ROWS)
def test_logs_of_json_lines_are_read(run: SavedRun, kind: str) -> None:
    rows = [{"started": "today"}] if kind == "plain" else []
    rows += [ROWS[kind](step, rate) for step, rate in USED.items()]
    (run.folders[0].parent / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 81, "learn')
    assert learning_rates(run) == pytest.approx(USED)
    np.testing.assert_allclose(clock_at(run, "lr", STEPS), [sum(USED[k] for k in range(1, s + 1)) for s in STEPS])
    assert schedule_end(run) == (80 if kind in ("LLaMA-Factory", "ms-swift") else None)  # the last rate used is not 0


def test_the_clock_of_steps_beyond_number_and_between_two(run: SavedRun) -> None:
    """What is summed is pieces, not steps; any of them agree with the sum of steps."""
    rng = np.random.default_rng(0)
    some = sorted(rng.choice(range(1, 90), 12, replace=False).tolist())
    for of_next, first in ((False, some[0]), (False, 1), (True, some[0]), (True, 0)):
        at = dict(zip([first, *some[1:]], rng.random(12).tolist(), strict=True))
        rates = Rates(at, of_next)
        known, values = np.array(sorted(at)), np.array([at[step] for step in sorted(at)])
        every = np.arange(1, 121)
        rate = np.interp(every - 1 if of_next else every, known, values)
        sums = np.concatenate([[0.0], np.cumsum(rate)])
        wanted = np.array([0, 0.5, 1, 7.25, 33, 60.75, 90, 119.5])
        np.testing.assert_allclose(rates.summed(wanted), np.interp(wanted, np.arange(121), sums), rtol=1e-12)
        far = rates.summed(np.array([1e12, 1e12 + 4]))
        assert far[1] - far[0] == pytest.approx(4 * values[-1], rel=1e-3)


@pytest.mark.parametrize("late", [False, True], ids=["of the step", "of the next step"])
@pytest.mark.parametrize("every", [1, 5, 10])
@pytest.mark.parametrize("where", ["trainer_state.json", "metrics.jsonl"])
def test_rates_logged_now_and_then_give_the_clock_of_those_that_were_used(
    run: SavedRun, late: bool, every: int, where: str
) -> None:
    """transformers logs the rate of the step, and before 4.51 that of the next, so 0 at the end: every tenth step by default."""
    logged = {step: USED.get(step + 1, 0.0) if late else USED[step] for step in range(every, 81, every)}
    rows = [{"step": step, "learning_rate": rate, "max_steps": 80} for step, rate in logged.items()]
    if where == "metrics.jsonl":
        (run.folders[0].parent / where).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        (run.folders[-1] / where).write_text(json.dumps({"log_history": rows, "max_steps": 80}))
    clock = clock_values(run, "lr")
    used = np.array([sum(USED[k] for k in range(11, step + 1)) for step in STEPS])
    np.testing.assert_allclose(clock - clock[0], used, rtol=1e-9)


def test_the_rate_that_transformers_logs_is_that_of_the_step(tmp_path: Path) -> None:
    """As long as this holds, 0 is not the last rate of a schedule that falls to 0."""
    transformers = pytest.importorskip("transformers")
    source = inspect.getsource(transformers.Trainer)
    taken = source.index("learning_rate = self._get_learning_rate()")
    assert taken < source.index("self.lr_scheduler.step()", taken) < source.index("learning_rate=learning_rate", taken)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (lambda step: 1e-5 * (step > 15), None),
        (
            lambda step: 1e-5 * (step > 30),
            "from step 10 to step 30, .*: leave all but one of the 3 checkpoints there out",
        ),
        (lambda step: 1e-5 * (step <= 70), "from step 70 to step 80, .*: leave one of the two checkpoints there out"),
        (
            lambda step: 0.3e-5 * (not 40 < step <= 50),
            "from step 40 to step 50, where the learning rate is 0: leave one",
        ),
    ],
    ids=["within the first", "a late start", "an early end", "a pause"],
)
def test_checkpoints_between_which_the_rate_is_0_are_named(
    run: SavedRun, rate: Callable[[int], float], said: str | None
) -> None:
    rows = [{"step": step, "lr": rate(step)} for step in range(1, 81)]
    (run.folders[0].parent / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if said is None:
        assert (np.diff(clock_values(run, "lr")) > 0).all()
        return
    with pytest.raises(InputError, match=rf"--clock lr does not advance {said}.* with --steps, or use --clock step"):
        clock_values(run, "lr")


def test_a_difference_that_is_rounding_is_no_advance() -> None:
    """And what is accepted leaves every figure finite."""
    with pytest.raises(InputError, match="does not advance from step 10 to step 20: leave one of the two"):
        advancing("run", (0, 10, 20), np.array([0.0, 1.0, 1.0 + 2e-16]))
    for bad in ([0.0, 1.0, np.inf], [0.0, 1.0, np.nan], [0.0, 1.0, 1e200], [0.0, 1e-200, 2e-200], [0.0, 2.0, 1.0]):
        with pytest.raises(InputError, match=r"the clock (is not finite or too large|does not advance)"):
            advancing("run", (0, 10, 20), np.array(bad))


def test_a_log_that_reaches_0_says_where_the_schedule_ends(run: SavedRun) -> None:
    rows = [{"step": step, "lr": max(1 - step / 60, 0)} for step in range(81)]
    (run.folders[0].parent / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert schedule_end(run) == 60


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("bomb-went-off"),))


def looped() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["optimizer"] = state
    return state


@pytest.mark.parametrize(
    "state",
    [
        {"_last_lr": []},
        {"_last_lr": ["x"]},
        {"_last_lr": [float("nan")]},
        {"_last_lr": [-1.0]},
        looped(),
        [1],
        Bomb(),
        None,
    ],
    ids=["empty", "text", "nan", "negative", "looped", "list", "bomb", "none"],
)
def test_states_that_are_not_understood_are_as_if_not_there(
    run: SavedRun, state: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in run.folders:
        torch.save(state, folder / "scheduler.pt")
        (folder / "optimizer.pt").write_bytes(pickle.dumps(state))
        (folder / "scheduler.bin").write_bytes(b"PK\x03\x04 cut")
    assert learning_rates(run) == {}
    assert schedule_end(run) is None
    assert not (tmp_path / "bomb-went-off").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"not json\n",
        b'["a list"]\n',
        b'{"step": 1, "learning_rate": "1e-5"}\n',
        b'{"step": "one", "learning_rate": 1e-5}\n',
        b'{"step": 1e999, "learning_rate": 1e-5}\n{"step": -1, "lr": 1}\n{"step": true, "lr": NaN}\n',
        b'{"prompt": "' + b"x" * (2 << 20) + b'", "step": 1, "lr": 1}\n',
        b'{"step": 0}\n' * 200 + b'{"step": 1, "lr": 1e-5}\n',
        b"[" * 100_000 + b"\n",
        b"",
    ],
    ids=[
        "text",
        "list",
        "rate as text",
        "step as text",
        "no numbers",
        "long line",
        "no rate for long",
        "deep",
        "empty",
    ],
)
def test_logs_that_are_not_understood_are_as_if_not_there(run: SavedRun, content: bytes) -> None:
    (run.folders[0].parent / "rows.jsonl").write_bytes(content)
    assert learning_rates(run) == {}


def test_what_the_trainer_logged_comes_before_what_it_saved(run: SavedRun) -> None:
    torch.save({"_last_lr": [1.0]}, run.folders[0] / "scheduler.pt")
    history = [{"step": step, "learning_rate": rate} for step, rate in USED.items()]
    (run.folders[-1] / "trainer_state.json").write_text(json.dumps({"log_history": history, "max_steps": 80}))
    assert learning_rates(run) == USED
    assert schedule_end(run) == 80


def test_the_rate_of_the_base_model_is_of_another_training(run: SavedRun, tmp_path: Path) -> None:
    base = tmp_path / "elsewhere" / "base"
    base.mkdir(parents=True)
    torch.save({"_last_lr": [0.5]}, base / "scheduler.pt")
    for folder in run.folders:
        torch.save({"_last_lr": [1e-5]}, folder / "scheduler.pt")
    based = SavedRun((base, *run.folders), steps=(0, *STEPS))
    assert set(learning_rates(based).values()) == {1e-5}


@pytest.mark.parametrize(
    ("rate", "end"),
    [
        (lambda step: 1e-5, None),
        (lambda step: 1e-5 * min(step / 20, 1), None),
        (lambda step: 1e-5 * (1 - 0.9 * step / 80), 80),
        (lambda step: 1e-5 * min(step / 20, (80 - step) / 60), 80),
    ],
    ids=["constant", "warm-up", "decay to a tenth", "warm-up and decay"],
)
def test_only_a_schedule_that_lets_the_rate_fall_ends(
    run: SavedRun, rate: Callable[[int], float], end: int | None
) -> None:
    history = [{"step": step, "learning_rate": rate(step)} for step in range(1, 81)]
    (run.folders[-1] / "trainer_state.json").write_text(json.dumps({"log_history": history, "max_steps": 80}))
    assert schedule_end(run) == end
