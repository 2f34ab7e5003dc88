"""Numbers in names and headers are claims: nothing is counted up to them, made room for, or promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from attack import driftline, refused, save_run

from driftline.checkpoints.configuration import clock_values
from driftline.checkpoints.discovery import choose_steps
from driftline.checkpoints.layouts import all_layouts
from driftline.checkpoints.opening import open_checkpoint
from driftline.checkpoints.optimizer_settings import beta1_in_settings
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.torchtitan_names import as_hugging_face
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.forecast.request import parse_targets
from driftline.publish import scalars
from driftline.watching.looking import Lookout
from driftline.watching.request import Following

pytestmark = pytest.mark.timeout(120)  # seconds; what the attacks want is hours


@pytest.mark.parametrize(
    "name",
    [
        "model_world_size_1000000000_rank_0.pt",
        "zero_pp_rank_1000000000_mp_rank_00_optim_states.pt",
        "model_world_size_1_rank_999999999.pt",
        f"zero_pp_rank_{'9' * 9}_mp_rank_00_optim_states.pt",
    ],
)
def test_ranks_of_a_name_are_not_counted_up_to(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UnreadableCheckpoint, match=r"of rank [01]"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("digits", [13, 200])
def test_a_rank_of_more_digits_is_none(tmp_path: Path, digits: int) -> None:
    (tmp_path / f"model_world_size_{'9' * digits}_rank_0.pt").write_bytes(b"")
    assert not any(layout.holds(tmp_path) for layout in all_layouts())


def adapter(folder: Path, out: int, fan_in: int) -> Path:
    folder.mkdir(parents=True)
    factors = {"q.lora_A.weight": np.ones((1, fan_in), np.float16), "q.lora_B.weight": np.ones((out, 1), np.float16)}
    safetensors.numpy.save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1}))
    return folder


def test_an_adapter_makes_no_larger_matrix_than_a_layer_has(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match="1,000,000 × 1,000,000, which no layer has"):
        open_checkpoint(adapter(tmp_path / "step-1", 10**6, 10**6))
    opened = open_checkpoint(adapter(tmp_path / "step-2", 256_000, 16_384))  # the largest vocabularies
    assert opened.tensors["q.weight"].shape == (256_000, 16_384)


def test_a_run_of_such_adapters_is_refused(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        adapter(tmp_path / "run" / f"checkpoint-{step}", 200_000, 200_000)
    assert "no layer has" in refused("analyze", tmp_path / "run", out=tmp_path / "out")


@pytest.mark.parametrize(
    "shape",
    [
        [2**62],
        [1] * 100_000,
        [2**61] * 60,
        [int("9" * 4000)],
        [2**40, 0, 1],
        [0] * 65,
    ],
)
def test_shapes_of_a_header_are_held_to_its_bytes(tmp_path: Path, shape: list[int]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    if 0 in shape and len(shape) < 65:
        assert read_header(tmp_path / "model.safetensors")["a"].size == 0
        return
    with pytest.raises(UnreadableCheckpoint, match="damaged header") as caught:
        read_header(tmp_path / "model.safetensors")
    assert len(str(caught.value)) < 2000


def test_experts_of_no_bytes_are_not_made_one_by_one(tmp_path: Path) -> None:
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in (("layers.0.moe.experts.w1", [2**40, 0, 1]), ("tok_embeddings.weight", [0, 4]))
    }
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    config = {"model_type": "qwen3_moe", "num_attention_heads": 0}
    assert as_hugging_face(read_header(tmp_path / "model.safetensors"), config) is None


def test_an_index_of_many_shards_ends_at_the_first_that_is_not_there(tmp_path: Path) -> None:
    names = {f"layer.{number}": f"model-{number}.safetensors" for number in range(200_000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UnreadableCheckpoint, match=r"lacks the shard model-0\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("step", [10**12 - 1, 10**9])
def test_far_steps_are_not_counted_up_to(tmp_path: Path, step: int) -> None:
    run = save_run(tmp_path / "run", (0, 10, step))
    state = {"log_history": [{"step": s, "learning_rate": 1e-6} for s in (1, 10, step)], "max_steps": step}
    (run / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 10, step)
    np.testing.assert_allclose(clock_values(trajectory, "lr"), 1e-6 * np.array([0, 10, step]))
    for chosen in ("0:", f"0:{step}:10", f":{step}", f"10:{step}:{step - 10}"):
        assert step in choose_steps(trajectory.steps, chosen) or (step % 10 and chosen.endswith(":10"))
    request = Following((str(run),), steps=f"0:{step}:1")
    lookout = Lookout(request, type("State", (), {"rows": {}})(), print)
    assert lookout.wanted([0, 10, step]) == {0, 10, step}


@pytest.mark.parametrize("digits", [13, 40, 240])
def test_a_name_of_more_digits_is_no_step(tmp_path: Path, digits: int) -> None:
    run = save_run(tmp_path / "run")
    (run / "checkpoint-20").rename(run / f"checkpoint-{'9' * digits}")
    trajectory = open_trajectory(run)
    assert trajectory.steps == (0, 10)
    assert "says more than a step" in next(iter(trajectory.unused.values()))


@pytest.mark.parametrize("text", ["9" * 5000, "0:" + "9" * 5000, "0:10:" + "9" * 5000, "0:999999999999:1", "٣"])
def test_steps_of_the_command_line_have_bounds_too(text: str) -> None:
    with pytest.raises(InputError):
        parse_targets(text)
    if text != "0:999999999999:1":
        for asked in (lambda: choose_steps([0, 10], text), lambda: Following(("run",), steps=text)):
            with pytest.raises(InputError, match="neither FIRST:LAST:STRIDE"):
                asked()


@pytest.mark.slow
def test_commands_with_far_steps(tmp_path: Path) -> None:
    far = 10**12 - 1
    run = save_run(tmp_path / "run", (0, 10, 20, 30, far))
    assert (
        driftline("watch", run, "--once", "--settle", "0", "--steps", f"0:{far}:1", "--out", tmp_path / "w").code == 0
    )
    assert driftline("backtest", run, "--out", tmp_path / "b").code == 0
    assert "names more than" in refused("extrapolate", run, "--to", f"0:{far}:1", out=tmp_path / "m")
    assert "neither a step" in refused("extrapolate", run, "--to", "9" * 300, out=tmp_path / "m")


@pytest.mark.parametrize(
    "text",
    [
        "optimizer: {adam_beta1: " + "1:" * 30_000 + "1}",
        "optimizer: {adam_beta1: " + "59:" * 30_000 + "59.5}",
        "optimizer: {adam_beta1: " + "9" * 100_000 + "}",
        "a: &a0 {x: 1}\n"
        + "".join(f"b{i}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(100))
        + "optimizer: {<<: *a100}",
        "a: &a0 [x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(100)),
        "optimizer: " + "[" * 100_000,
        "optimizer: " + "{a: " * 20_000,
        "- " * 60_000,
        "x" * 130_000,
        "? [a, b]\n: 1\n",
    ],
    ids=[
        "sexagesimal",
        "sexagesimal fraction",
        "digits",
        "merged",
        "anchors",
        "lists",
        "objects",
        "items",
        "long",
        "key",
    ],
)
def test_settings_of_a_trainer_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert _beta1(tmp_path / "config.yaml") is None


def _beta1(path: Path) -> float | None:
    """None where it says why it cannot be read."""
    try:
        return beta1_in_settings(path)
    except ValueError:
        return None


@pytest.mark.parametrize("text", ["a." * 60_000 + "b = 1", "x = " + "[" * 60_000, "[" + "a." * 60_000 + "b]"])
def test_settings_in_toml_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "trainer.toml").write_text(text)
    assert _beta1(tmp_path / "trainer.toml") is None


def test_what_is_merged_in_yaml_counts(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("base: &b {betas: [0.8, 0.99]}\noptimizer: {<<: *b, name: adamw}\n")
    assert beta1_in_settings(tmp_path / "config.yaml") == 0.8
    (tmp_path / "config.yaml").write_text("base: &b {betas: [0.8, 0.99]}\noptimizer: {<<: [*b], betas: [0.7, 0.9]}\n")
    assert beta1_in_settings(tmp_path / "config.yaml") == 0.7


def test_numbers_of_results_beyond_any_float_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"a": 10**400, "b": 2}))
    assert scalars(tmp_path) == {"driftline/b": 2.0}


@pytest.mark.parametrize("dtype", ["model.safetensors", "I8", "F8_E8M0", "C64", "x" * 5000])
def test_a_factor_in_a_dtype_that_is_not_read_is_named(tmp_path: Path, dtype: str) -> None:
    factors = {"q.lora_A.weight": ("F32", [2, 4], [0, 32]), "q.lora_B.weight": (dtype, [3, 2], [32, 56])}
    header = json.dumps(
        {
            f"base_model.model.{name}": {"dtype": kind, "shape": shape, "data_offsets": offsets}
            for name, (kind, shape, offsets) in factors.items()
        }
    ).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(56))
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}'
    )
    with pytest.raises(UnreadableCheckpoint) as told:
        open_checkpoint(tmp_path)
    assert len(str(told.value)) < 500 + len(str(tmp_path))
