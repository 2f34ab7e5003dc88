"""Every bit pattern of the narrow formats, against ml_dtypes."""

import ml_dtypes
import numpy as np
import pytest

from driftline.checkpoints.dtypes import decode, round_to

NARROW = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
}


@pytest.mark.parametrize("dtype", NARROW)
def test_decode_agrees_with_ml_dtypes_on_every_bit_pattern(dtype: str) -> None:
    width = np.dtype(NARROW[dtype]).itemsize
    raw = np.arange(256**width, dtype=f"<u{width}")
    out = np.empty(raw.size, np.float32)
    decode(raw.view(np.uint8), dtype, out)
    np.testing.assert_array_equal(out, raw.view(NARROW[dtype]).astype(np.float32))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_rounding_is_to_nearest_even(dtype: str, rng: np.random.Generator) -> None:
    values = (rng.standard_normal(100_000) * 10 ** rng.uniform(-3, 3, 100_000)).astype(np.float32)
    np.testing.assert_array_equal(round_to(values, dtype), values.astype(NARROW[dtype]).astype(np.float32))


def test_float32_is_left_alone() -> None:
    values = np.array([0.1, -3.5], np.float32)
    assert round_to(values, "F32") is values
