"""Forecast models on disk: their values, what is kept, the recipe, and what is refused."""

import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import load_file

from conftest import NUMPY, save_tensors, walk_weights
from driftline import InputError, open_trajectory
from driftline.checkpoints.trajectory import TensorSeries
from driftline.files.json import json_text
from driftline.forecast.forecast import Forecast
from driftline.forecast.request import ForecastRequest, parse_targets
from driftline.linearity.analysis import analyze
from driftline.writing.card import base_model
from driftline.writing.extrapolate import WrittenForecasts, extrapolate
from driftline.writing.storage import Storage, parse_size
from driftline.writing.write import write

MakeRun = Callable[..., Path]
ALL = Storage(keep=())
SHAPES = {
    "model.embed_tokens.weight": (50, 8),
    "model.layers.0.up.weight": (40, 30),
    "model.layers.0.up.bias": (40,),
    "model.layers.0.input_layernorm.weight": (30,),
    "model.norm.weight": (30,),
}
STEPS = list(range(0, 100, 10))


def forecast(run: Path, out: Path, storage: Storage = ALL, **request: object) -> WrittenForecasts:
    request = {"method": "two-point"} | request
    return extrapolate(open_trajectory(run), out, ForecastRequest(**request), storage)  # type: ignore[arg-type]


def stored(run: Path, step: int) -> dict[str, np.ndarray]:
    """What was saved, as float32, read by the safetensors library."""
    path = run / f"checkpoint-{step}" / "model.safetensors"
    return {name: np.asarray(value).astype(np.float32) for name, value in load_file(path).items()}


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3))


def bfloat16_run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3), dtype="BF16", run="bfloat16")


def slowing(rng: np.random.Generator, steps: list[int], power: float) -> dict[int, dict[str, np.ndarray]]:
    """A walk that drifts as a power of the step."""
    run = walk_weights(rng, steps, SHAPES)
    direction = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return {
        step: {name: value + 1e-2 * step**power * direction[name] for name, value in tensors.items()}
        for step, tensors in run.items()
    }


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
    write(trajectory, {tmp_path / "again": Forecast(coefficients, {"target": 140, "method": "relex"})}, again)
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
    assert names == sorted(["README.md", "chat_template.jinja", "config.json", "driftline.json", "generation_config.json",
                            "model.safetensors", "tokenizer.json", "vocab.txt"])  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'base_model: "org/base"' in card
    assert "# Forecast of step 120" in card
    assert os.stat(tmp_path / "out" / "model.safetensors").st_mode & 0o111 == 0


def test_alpha_and_from(run: Path, tmp_path: Path) -> None:
    by_step = forecast(run, tmp_path / "a", targets=(110,), seen=(50, 20)).records[0]
    by_alpha = forecast(run, tmp_path / "b", alpha=3.0, seen=(20, 50)).records[0]
    assert by_step["coefficients"] == by_alpha["coefficients"] == {"20": -2.0, "50": 3.0}
    assert by_step["alpha"] == by_alpha["alpha"] == 3.0
    assert by_alpha["target"] == 110
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_saved_analysis_gives_the_same_forecast_without_a_scan(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "an").mkdir()
    summary = analyze(open_trajectory(run), tmp_path / "an")
    (tmp_path / "an" / "summary.json").write_text(json_text(summary))
    scanned = forecast(run, tmp_path / "a", targets=(120,), method="relex").records[0]
    monkeypatch.setattr("driftline.forecast.observations.scan", lambda *a, **k: pytest.fail("weights were read"))
    kept = forecast(run, tmp_path / "b", targets=(120,), method="relex", analysis=tmp_path / "an").records[0]
    assert kept["coefficients"] == scanned["coefficients"]
    with pytest.raises(InputError, match="is of other steps, another clock or other tensors"):
        extrapolate(
            open_trajectory(run, steps="0:50"),
            tmp_path / "c",
            ForecastRequest((70,), "relex", analysis=tmp_path / "an"),
        )
    with pytest.raises(InputError, match="is not a result of driftline analyze"):
        forecast(run, tmp_path / "c", targets=(120,), method="relex", analysis=tmp_path / "none")


def test_reconstruct_and_interpolate(run: Path, tmp_path: Path) -> None:
    full = forecast(run, tmp_path / "full", targets=(50,), method="relex", rank=len(STEPS), reconstruct=True)
    assert full.records[0]["reconstruct"] is True
    found = load_file(tmp_path / "full" / "model.safetensors")
    for name, value in stored(run, 50).items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    between = extrapolate(open_trajectory(run), tmp_path / "mid", ForecastRequest((44,), interpolate=True), ALL)
    assert between.records[0]["coefficients"] == pytest.approx({"40": 0.6, "50": 0.4})
    assert between.records[0]["method"] == "two-point"


def test_the_learning_rate_clock_goes_on_at_the_last_rate(run: Path, tmp_path: Path) -> None:
    """Rate 2 to step 50, then 1: from 0 and 90 the clock runs 0, 140; step 120 is at 170."""
    history = [{"step": step, "learning_rate": 2.0 if step <= 50 else 1.0} for step in range(1, 91)]
    (run / "checkpoint-90" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    record = forecast(run, tmp_path / "out", targets=(120,), clock="lr").records[0]
    assert record["coefficients"]["90"] == pytest.approx(170 / 140)
    history[-1]["learning_rate"] = 0.0
    (run / "checkpoint-90" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    with pytest.raises(InputError, match="learning rate is 0 at step 90, the end of its schedule"):
        forecast(run, tmp_path / "no", targets=(120,), clock="lr")


class TestAuto:
    def test_a_straight_run_is_forecast_as_far_as_back_tests_carry(
        self, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        run = make_run(walk_weights(rng, list(range(0, 160, 10)), SHAPES, drift=1.0))
        near = forecast(run, tmp_path / "near", targets=(160,), method="auto")
        assert not near.warning
        assert near.records[0]["method"] == "two-point"
        assert "beat holding the last one up to" in near.sentence
        far = forecast(run, tmp_path / "far", targets=(2000,), method="auto")
        assert far.warning
        assert "step 2000 lies further" in far.sentence
        assert "--method two-point goes all the way, untested" in far.sentence
        record = far.records[0]
        assert record["reached"] < 300
        assert record["coefficients"]["150"] == pytest.approx(record["reached"] / 150)

    def test_where_damped_reaches_further_the_sentence_says_so(
        self, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        steps = list(range(0, 160, 10))
        slow = forecast(make_run(slowing(rng, steps, 0.6), run="slow"), tmp_path / "a", targets=(400,), method="auto")
        said = re.search(r"--method damped moves less and was good to (\d+) steps", slow.sentence)
        assert said is not None
        assert 0 < slow.records[0]["reached"] - 150 < float(said[1])
        slower = forecast(
            make_run(slowing(rng, steps, 0.5), run="slower"), tmp_path / "b", targets=(400,), method="auto"
        )
        assert slower.records[0]["method"] == "hold"
        assert "--method damped moves less and was good to" in slower.sentence

    def test_a_driftless_run_is_held_with_a_warning(
        self, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        run = make_run(walk_weights(rng, list(range(0, 3200, 200)), SHAPES))
        outcome = forecast(run, tmp_path / "out", targets=(3600,), method="auto")
        assert outcome.warning
        assert "drift is not told from chance" in outcome.sentence
        found = load_file(tmp_path / "out" / "model.safetensors")
        for name, value in stored(run, 3000).items():
            np.testing.assert_array_equal(found[name], value)

    def test_two_checkpoints_are_taken_at_their_word_with_a_warning(self, run: Path, tmp_path: Path) -> None:
        outcome = extrapolate(open_trajectory(run, steps="0,90"), tmp_path / "out", ForecastRequest((180,)), ALL)
        assert outcome.warning
        assert "not back-tested: 2 checkpoints are too few" in outcome.sentence
        assert outcome.records[0]["alpha"] == 2.0


BAD = [
    ({"targets": (50,)}, "--to 50 is not beyond the observed steps, 0 to 90"),
    ({"targets": (90,)}, "not beyond the observed steps"),
    ({"targets": (5,), "seen": (20, 50)}, "--to 5 is before the observed steps, 20 to 50"),
    ({"targets": (45,), "method": "relex", "reconstruct": True}, "--to 45: --reconstruct rebuilds observed steps"),
    ({"targets": (120,), "reconstruct": True}, "add --method relex"),
    ({"targets": (120,), "seen": (50, 50)}, "--from 50 50 names a step twice"),
    ({"targets": (120,), "seen": (50,)}, r"one checkpoint \(step 50\) makes no line"),
    ({"targets": (120,), "seen": (50, 55)}, "--from 55: not in the run: choose among the steps 0, 10"),
    ({"alpha": float("nan")}, "--alpha nan is not a finite number"),
    ({"alpha": float("inf")}, "--alpha inf is not a finite number"),
    ({"alpha": 0.5}, "does not go beyond the late checkpoint"),
    ({"alpha": 2.0, "targets": (120,)}, "--alpha and --to both say"),
    ({"alpha": 2.0, "method": "blup"}, "--alpha belongs to --method two-point"),
    ({}, "no target: say with --to"),
    ({"targets": (120,), "method": "two_point"}, "'two_point' is unknown: did you mean two-point"),
    ({"targets": (120,), "rank": 0, "method": "relex"}, "--rank 0"),
    ({"targets": (120,), "clock": "lr"}, "--clock lr needs the learning rate"),
    ({"targets": (120,), "target_score": 0.5}, "belong to --method alpharl"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "complaint"), BAD, ids=[complaint[:30] for _, complaint in BAD])
def test_bad_requests_are_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, request_: dict, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        forecast(run, tmp_path / "out", **request_)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def rewrite(run: Path, step: int, change: Callable[[dict[str, np.ndarray]], object], dtype: str = "F32") -> None:
    tensors = stored(run, step)
    change(tensors)
    save_tensors(run / f"checkpoint-{step}" / "model.safetensors", tensors, dtype)


def spoil(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].flat[7] = value

    return change


@pytest.mark.parametrize(
    ("step", "change", "complaint"),
    [
        (0, lambda t: t.pop("model.norm.weight"), r"tensor 'model.norm.weight' is in .*checkpoint-90.* but absent at step 0"),
        (90, lambda t: t.pop("model.norm.weight"), r"tensor 'model.norm.weight' is in .*checkpoint-0.* but absent at step 90"),
        (0, lambda t: t.update({"model.norm.weight": np.ones(7)}), r"checkpoint-0.*'model.norm.weight' has shape \[7\] at step 0 but \[30\]"),
        (0, spoil("model.layers.0.up.weight", np.nan), r"checkpoint-0.*'model.layers.0.up.weight' at step 0 holds a weight that is not finite \(flat position 7\)"),
        (90, spoil("model.norm.weight", np.inf), r"checkpoint-90.*'model.norm.weight' at step 90 holds a weight that is not finite"),
    ],
    ids=["absent early", "absent late", "shape", "NaN", "infinite kept"],
)  # fmt: skip
def test_differing_and_non_finite_tensors_are_named(
    run: Path, tmp_path: Path, step: int, change, complaint: str
) -> None:
    rewrite(run, step, change)
    with pytest.raises(InputError, match=complaint):
        forecast(run, tmp_path / "out", Storage(), targets=(120,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_mixed_dtypes_need_a_word(run: Path, tmp_path: Path) -> None:
    """A bfloat16 base before float32 checkpoints is common: the output's dtype is then the user's choice."""
    rewrite(run, 0, lambda tensors: None, "BF16")
    with pytest.raises(InputError, match=r"checkpoint-0.*is BF16 at step 0 but F32 at step 90: say with --dtype"):
        forecast(run, tmp_path / "out", targets=(120,))
    forecast(run, tmp_path / "out", replace(ALL, dtype="float32"), targets=(120,))
    name = "model.layers.0.up.weight"
    early = stored(run, 0)[name].astype(NUMPY["BF16"]).astype(np.float32)
    late = stored(run, 90)[name]
    found = load_file(tmp_path / "out" / "model.safetensors")[name]
    np.testing.assert_allclose(found, early + 4 / 3 * (late - early), atol=1e-6)


def test_a_forecast_too_large_for_its_dtype_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is too large for F16: choose a nearer target or --dtype"):
        forecast(run, tmp_path / "out", replace(ALL, dtype="float16"), targets=(10**9,))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"out could not be written \(No space left on device\): nothing was left"):
        forecast(run, tmp_path / "out", targets=(120,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_targets_and_sizes() -> None:
    assert parse_targets("1200") == (1200,)
    assert parse_targets("1200,1400") == (1200, 1400)
    assert parse_targets("1200:1600:200") == (1200, 1400, 1600)
    for text in ("", "x", "-5", "1.5", "1600:1200:100", "1:2", "10,10"):
        with pytest.raises(InputError, match="--to"):
            parse_targets(text)
    assert [parse_size(text) for text in ("5GB", "200 MB", "1KiB", "7", "1.5k", "2B")] == [
        5 * 10**9, 2 * 10**8, 1024, 7, 1500, 2,
    ]  # fmt: skip
    for text in ("", "0", "GB", "5XB", "-1GB"):
        with pytest.raises(InputError, match="--shard-size"):
            parse_size(text)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("checkpoint-90/adapter_config.json", '{"base_model_name_or_path": "org/base"}'),
        ("checkpoint-90/README.md", "---\nlibrary_name: peft\nbase_model: org/base\ntags:\n- trl\n---\n\n# A\n"),
        ("README.md", '---\nbase_model: "org/base"\nlicence: x\n---\n'),
    ],
)
def test_the_card_names_the_base_that_the_trainer_noted(run: Path, file: str, content: str) -> None:
    assert base_model(open_trajectory(run)) is None
    (run / file).write_text(content)
    assert base_model(open_trajectory(run)) == "org/base"


@pytest.mark.parametrize(
    "card", ["base_model: org/base\n", "---\nbase_model: None\n---\n", "---\nx: 1\n---\nbase_model: org/base\n",
             "---\nbase_model: ../../etc\n---\n", "---\nbase_model: a/b/c\n---\n"],
)  # fmt: skip
def test_what_is_no_name_of_the_hub_is_not_taken_for_one(run: Path, card: str) -> None:
    (run / "README.md").write_text(card)
    assert base_model(open_trajectory(run)) is None
