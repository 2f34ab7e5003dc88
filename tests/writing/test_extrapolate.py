"""Forecast models on disk: their values, what is kept, and the recipe."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import load_file
from small_runs import ALL, SHAPES, STEPS, MakeRun, bfloat16_run, forecast, rewrite, stored

from conftest import walk_weights
from driftline import InputError, open_trajectory
from driftline.checkpoints.trajectory import TensorSeries
from driftline.forecast.forecast import Forecast, Origin
from driftline.writing.storage import Storage, parse_size
from driftline.writing.write import write


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3))


@pytest.mark.parametrize("dtype", ["same", "float32", "bfloat16"])
def test_two_point_is_bit_for_bit_the_formula_in_torch(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path, dtype: str
) -> None:
    import torch
    from safetensors.torch import load_file as load

    run, out = bfloat16_run(make_run, rng), tmp_path / "out"
    forecast(run, out, replace(ALL, dtype=dtype), targets=(137,))
    early, late = (load(run / f"checkpoint-{step}" / "model.safetensors") for step in (0, 90))
    alpha = 137 / 90
    found = load(out / "model.safetensors")
    assert set(found) == set(SHAPES)
    for name, value in found.items():
        exact = early[name].float() + alpha * (late[name].float() - early[name].float())
        expected = exact if dtype == "float32" else exact.bfloat16()
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected), name


def test_every_method_writes_what_its_coefficients_say(run: Path, tmp_path: Path) -> None:
    """Each file equals sum_t a_t W_t with the coefficients of its own recipe, biases and embeddings included."""
    for method in ("hold", "mean", "ema", "two-point", "least-squares", "anchored", "damped", "blup", "relex"):
        for per in (None, "run", "group", "tensor"):
            out = tmp_path / f"{method}-{per}"
            record = forecast(run, out, targets=(120,), method=method, per=per).records[0]
            found = load_file(out / "model.safetensors")
            for name in SHAPES:
                a = record["coefficients"]
                a = a if record["coefficients_per"] == "run" else a[name]
                exact = sum(np.float64(c) * stored(run, int(step))[name] for step, c in a.items())
                np.testing.assert_allclose(found[name], exact, rtol=1e-4, atol=1e-5, err_msg=f"{method} {per} {name}")
                assert sum(a.values()) == pytest.approx(1)


def test_only_the_checkpoints_that_count_are_needed(run: Path, tmp_path: Path) -> None:
    """A middle checkpoint that lacks a tensor does not disturb a two-point forecast, and stops those that use it."""
    before = forecast(run, tmp_path / "before", targets=(120,)).records[0]
    rewrite(run, 50, lambda tensors: tensors.pop("model.norm.weight"))
    after = forecast(run, tmp_path / "after", targets=(120,)).records[0]
    assert before["sources"] == after["sources"]
    assert [source["step"] for source in after["sources"]] == [0, 90]
    for method in ("mean", "relex"):
        with pytest.raises(
            InputError, match=r"'model.norm.weight' .*step 50|'model.norm.weight' is not in every checkpoint"
        ):
            forecast(run, tmp_path / method, targets=(120,), method=method)


def test_norm_layers_are_kept_by_default_and_listed(run: Path, tmp_path: Path) -> None:
    record = forecast(run, tmp_path / "out", Storage(), targets=(120,)).records[0]
    assert record["kept"] == ["model.layers.0.input_layernorm.weight", "model.norm.weight"]
    found, last = load_file(tmp_path / "out" / "model.safetensors"), stored(run, 90)
    for name in SHAPES:
        assert (found[name] == last[name]).all() == (name in record["kept"])
    chosen = forecast(run, tmp_path / "two", Storage(keep=("*up.bias",)), targets=(120,)).records[0]
    assert chosen["kept"] == ["model.layers.0.up.bias"]
    with pytest.raises(InputError, match=r"--keep 'embed' matches no tensor .*'\*embed\*'"):
        forecast(run, tmp_path / "three", Storage(keep=("embed",)), targets=(120,))


def test_a_tied_head_stays_tied(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    """The reference implementation overwrites the extrapolated embedding with the copied head here."""
    weights = walk_weights(
        rng, [0, 10], {"model.embed_tokens.weight": (50, 8), "model.layers.0.up.weight": (8, 8)}, drift=1.0
    )
    for tensors in weights.values():
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    run = make_run(weights)
    for folder in run.iterdir():
        (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    forecast(run, tmp_path / "out", Storage(), targets=(30,))
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == {"model.embed_tokens.weight", "model.layers.0.up.weight"}
    early, late = stored(run, 0)["model.embed_tokens.weight"], stored(run, 10)["model.embed_tokens.weight"]
    np.testing.assert_allclose(found["model.embed_tokens.weight"], early + 3 * (late - early), atol=1e-6)


def test_integer_buffers_are_copied_from_the_last_checkpoint(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    weights = walk_weights(rng, [0, 10], {"w": (20,)})
    weights[0]["positions"], weights[10]["positions"] = np.arange(5), np.arange(5) + 1
    record = forecast(make_run(weights), tmp_path / "out", targets=(30,)).records[0]
    assert record["copied"] == ["positions"]
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "model.safetensors")["positions"], np.arange(5) + 1)


def test_shards_have_an_index_and_no_file_is_larger(run: Path, tmp_path: Path) -> None:
    whole = forecast(run, tmp_path / "whole", targets=(120,)).records[0]
    forecast(run, tmp_path / "out", replace(ALL, shard_bytes=parse_size("2KB")), targets=(120,))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    together: dict[str, np.ndarray] = {}
    for file in files:
        part = load_file(tmp_path / "out" / file)
        assert all(index["weight_map"][name] == file for name in part)
        assert len(part) == 1 or sum(value.nbytes for value in part.values()) <= 2000
        together |= part
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in together.values())
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    assert set(together) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(together[name], value)
    reopened = open_trajectory([f"1={tmp_path / 'out'}", f"2={tmp_path / 'whole'}"])
    assert reopened.parameters == sum(value.size for value in expected.values())
    assert whole["rounding_loss"] == 0


def test_several_targets_make_a_run_of_their_own_from_one_reading(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []
    original = TensorSeries.read

    def counted(self, start, stop, out, scratch):
        read.append((self.name, start))
        return original(self, start, stop, out, scratch)

    monkeypatch.setattr(TensorSeries, "read", counted)
    outcome = forecast(run, tmp_path / "out", targets=(120, 150, 200))
    assert sorted(read) == sorted({(name, 0) for name in SHAPES})
    assert open_trajectory(tmp_path / "out").steps == (120, 150, 200)
    assert [record["target"] for record in outcome.records] == [120, 150, 200]
    for target in (120, 200):
        alone = tmp_path / f"alone-{target}"
        forecast(run, alone, targets=(target,))
        together = tmp_path / "out" / f"checkpoint-{target}"
        assert (alone / "model.safetensors").read_bytes() == (together / "model.safetensors").read_bytes()


def test_the_recipe_makes_the_same_bytes_again(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    """From driftline.json alone: sources, coefficients, kept tensors, dtype, rounding and seed."""
    run = bfloat16_run(make_run, rng)
    storage = Storage(rounding="stochastic", seed=5, shard_bytes=3000)
    forecast(run, tmp_path / "out", storage, targets=(140,), method="relex")
    recipe = json.loads((tmp_path / "out" / "driftline.json").read_text())
    folders = {source["step"]: Path(source["file"]).parent for source in recipe["sources"]}
    for source in recipe["sources"]:
        content = Path(source["file"]).read_bytes()
        assert source["bytes"] == len(content)
        assert source["blake3"] == blake3(content).hexdigest()
    trajectory = open_trajectory([f"{step}={folder}" for step, folder in folders.items()])
    coefficients = {
        name: np.array([recipe["coefficients"][name][str(step)] for step in trajectory.steps]) for name in SHAPES
    }
    again = Storage(
        *(tuple(recipe["keep"]), recipe["dtype"], recipe["rounding"], recipe["seed"], recipe["shard_bytes"])
    )
    (tmp_path / "again").mkdir()
    write(
        trajectory,
        {
            tmp_path / "again": Forecast(
                coefficients, Origin(driftline="0", target=140, method="relex", observed=list(trajectory.steps))
            )
        },
        again,
    )
    for file in (tmp_path / "out").glob("*.safetensors*"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_what_rounding_lost_is_measured(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    run = bfloat16_run(make_run, rng)
    exact = forecast(run, tmp_path / "exact", replace(ALL, dtype="float32"), targets=(140,)).records[0]
    rounded = forecast(run, tmp_path / "rounded", targets=(140,)).records[0]
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded")]
    first = stored(run, 0)
    lost = sum(((np.asarray(files[1][n], np.float32) - files[0][n]) ** 2).sum(dtype=float) for n in SHAPES)
    moved = sum(((files[0][n] - first[n]) ** 2).sum(dtype=float) for n in SHAPES)
    assert exact["rounding_loss"] == 0
    assert rounded["rounding_loss"] == pytest.approx(np.sqrt(lost / moved), rel=1e-3)
    assert rounded["written_dtype"] == "BF16"


def test_the_folder_has_what_a_model_needs(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoint-90"
    (last / "config.json").write_text(
        json.dumps({"model_type": "test", "_name_or_path": "org/base", "torch_dtype": "float32"})
    )
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja", "vocab.txt"):
        (last / name).write_text(name)
    for name in ("trainer_state.json", "training_args.bin", "optimizer.pt"):
        (last / name).write_text("no")
    forecast(run, tmp_path / "out", replace(ALL, dtype="bfloat16"), targets=(120,))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(
        [
            "README.md",
            "chat_template.jinja",
            "config.json",
            "driftline.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "vocab.txt",
        ]
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'base_model: "org/base"' in card
    assert "# Forecast of step 120" in card
    assert os.stat(tmp_path / "out" / "model.safetensors").st_mode & 0o111 == 0
