"""Runs and disks of which no forecast can be written."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import ALL, SHAPES, STEPS, MakeRun, forecast, rewrite, spoil, stored

import driftline
from conftest import NUMPY, walk_weights
from driftline import InputError
from driftline.writing.record import read_recipe
from driftline.writing.storage import Storage


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3))


@pytest.mark.parametrize(
    ("step", "change", "complaint"),
    [
        (
            0,
            lambda t: t.pop("model.norm.weight"),
            r"tensor 'model.norm.weight' is in .*checkpoint-90.* but absent at step 0",
        ),
        (
            90,
            lambda t: t.pop("model.norm.weight"),
            r"tensor 'model.norm.weight' is in .*checkpoint-0.* but absent at step 90",
        ),
        (
            0,
            lambda t: t.update({"model.norm.weight": np.ones(7)}),
            r"checkpoint-0.*'model.norm.weight' has shape \[7\] at step 0 but \[30\]",
        ),
        (
            0,
            spoil("model.layers.0.up.weight", np.nan),
            r"checkpoint-0.*'model.layers.0.up.weight' at step 0 holds a weight that is not finite \(flat position 7\)",
        ),
        (
            90,
            spoil("model.norm.weight", np.inf),
            r"checkpoint-90.*'model.norm.weight' at step 90 holds a weight that is not finite",
        ),
    ],
    ids=["absent early", "absent late", "shape", "NaN", "infinite kept"],
)
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


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_weights_whose_squares_overflow_are_written(make_run, tmp_path, dtype):
    base = np.linspace(1e29, 3e30, 64)
    run = make_run({step: {"w": base * (1 + step / 100)} for step in (10, 20, 30)}, dtype)
    driftline.extrapolate(
        run, tmp_path / "out", to=40, method="two-point", from_=(10, 30), keep=("none",), dtype="float32"
    )
    np.testing.assert_allclose(load_file(tmp_path / "out" / "model.safetensors")["w"], base * 1.4, rtol=0.02)
    assert 0 <= read_recipe(tmp_path / "out").rounding_loss < 0.1
