"""The inner loops against numpy, torch's bfloat16 and probability."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from driftline.writing.combine import combine_bfloat16, combine_checkpoints, decoded, encode, losses

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)


def test_combine_adds_weighted_differences_from_the_first(rng: np.random.Generator) -> None:
    values, c = rng.standard_normal((4, 1000), np.float32), np.array([9, 0.5, -2.0, 1.25], np.float32)
    out = np.empty(1000, np.float32)
    combine_checkpoints(values, c, out)
    exact = values[0] + c[1:].astype(float) @ (values[1:].astype(float) - values[0])
    np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2047, 2048, 5000])
def test_the_fused_kernel_is_the_three_others_in_one(rng: np.random.Generator, n: int) -> None:
    values = rng.standard_normal((4, n)).astype(ml_dtypes.bfloat16)
    c = np.array([9, 0.3, -2.7, 1.1], np.float32)
    exact, fused = np.empty(n, np.float32), np.empty(n, np.uint16)
    combine_checkpoints(values.astype(np.float32), c, exact)
    raw = encode(exact, "BF16", stochastic=False, seed=0, name="w", first=0)
    found = combine_bfloat16(values.view(np.uint16), c, fused)
    np.testing.assert_array_equal(fused, raw)
    np.testing.assert_allclose(found, losses(exact, decoded(raw, "BF16"), values[0].astype(np.float32)), rtol=1e-5)


def test_one_checkpoint_comes_through_unchanged(rng: np.random.Generator) -> None:
    values, out = rng.standard_normal((1, 33), np.float32), np.empty(33, np.float32)
    combine_checkpoints(values, np.ones(1, np.float32), out)
    np.testing.assert_array_equal(out, values[0])


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=FINITE))
def test_bfloat16_rounds_as_ml_dtypes_does(values: np.ndarray) -> None:
    raw = encode(values, "BF16", stochastic=False, seed=0, name="w", first=0)
    np.testing.assert_array_equal(raw, values.astype(ml_dtypes.bfloat16).view(np.uint16))
    np.testing.assert_array_equal(decoded(raw, "BF16"), values.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_stochastic_rounding_is_unbiased_seeded_and_never_moves_what_is_exact() -> None:
    """The mean over 100,000 draws comes within five standard errors of the value itself."""
    low, high = np.float32(1.0), np.float32(1.0078125)  # neighbours in bfloat16
    for share in (0.1, 0.5, 0.9):
        value = np.float32(low + share * (high - low))
        values = np.full(100_000, value, np.float32)
        found = decoded(encode(values, "BF16", stochastic=True, seed=3, name="w", first=0), "BF16")
        assert set(np.unique(found)) == {low, high}
        error = (high - low) * np.sqrt(share * (1 - share) / values.size)
        assert abs(found.mean(dtype=np.float64) - value) < 5 * error
    again = encode(values, "BF16", stochastic=True, seed=3, name="w", first=0)
    np.testing.assert_array_equal(decoded(again, "BF16"), found)
    for seed, name, first in ((4, "w", 0), (3, "v", 0), (3, "w", 1)):
        other = encode(values, "BF16", stochastic=True, seed=seed, name=name, first=first)
        assert (decoded(other, "BF16") != found).any()
    exact = np.array([low, -high, 0.0, -0.0], np.float32)
    kept = encode(exact, "BF16", stochastic=True, seed=1, name="w", first=0)
    np.testing.assert_array_equal(decoded(kept, "BF16").view(np.uint32), exact.view(np.uint32))


def test_stochastic_rounding_does_not_depend_on_how_the_tensor_is_cut(rng: np.random.Generator) -> None:
    values = rng.standard_normal(1000, np.float32)
    whole = encode(values, "BF16", stochastic=True, seed=1, name="w", first=0)
    parts = [
        encode(values[a:b], "BF16", stochastic=True, seed=1, name="w", first=a) for a, b in ((0, 300), (300, 1000))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_other_dtypes_are_numpys(rng: np.random.Generator, dtype: str) -> None:
    values = rng.standard_normal(100, np.float32)
    raw = encode(values, dtype, stochastic=False, seed=0, name="w", first=0)
    np.testing.assert_array_equal(decoded(raw, dtype), values.astype(raw.dtype).astype(np.float32))


def test_losses_are_squared_norms_and_see_what_is_not_finite(rng: np.random.Generator) -> None:
    exact, rounded, reference = rng.standard_normal((3, 10_000), np.float32)
    lost, moved = losses(exact, rounded, reference)
    np.testing.assert_allclose(lost, ((rounded - exact).astype(float) ** 2).sum(), rtol=1e-4)
    np.testing.assert_allclose(moved, ((exact - reference).astype(float) ** 2).sum(), rtol=1e-4)
    for value in (np.nan, np.inf, -np.inf):
        spoiled = exact.copy()
        spoiled[5000] = value
        assert not np.isfinite(sum(losses(spoiled, spoiled, reference)))
