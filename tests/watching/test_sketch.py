"""The sketch against inner products of whole vectors, and the sample of positions."""

import numpy as np
import pytest

from driftline.watching.sketch import fold, sample_positions


def sketch_of(values: np.ndarray, start: int, buckets: int) -> np.ndarray:
    sketch = np.zeros(buckets)
    fold(values.astype(np.float32), start, sketch)
    return sketch


def test_a_small_vector_is_its_own_sketch(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((2, 900)).astype(np.float32)
    a, b = sketch_of(x, 0, 997), sketch_of(y, 0, 997)
    assert a @ b == pytest.approx(x.astype(float) @ y.astype(float), rel=1e-12)
    np.testing.assert_array_equal(np.abs(a[:900]), np.abs(x))


def test_it_does_not_depend_on_where_chunks_fall(rng: np.random.Generator) -> None:
    x = rng.standard_normal(10_000).astype(np.float32)
    whole, parts = sketch_of(x, 7, 997), np.zeros(997)
    for start, stop in ((0, 1), (1, 130), (130, 6000), (6000, 10_000)):
        fold(x[start:stop], 7 + start, parts)
    np.testing.assert_allclose(whole, parts, atol=1e-12)


@pytest.mark.parametrize("buckets", [997, 10_007])
def test_inner_products_are_unbiased_within_the_stated_error_even_where_few_weights_hold_most(
    rng: np.random.Generator, buckets: int
) -> None:
    errors = []
    for _ in range(60):
        x, noise = (rng.standard_normal((2, 40_000)) ** 5).astype(np.float32)
        y = np.float32(0.1) * x + noise
        start = int(rng.integers(0, 2**50))
        estimate = sketch_of(x, start, buckets) @ sketch_of(y, start, buckets)
        x, y = x.astype(float), y.astype(float)
        errors.append((estimate - x @ y) / np.linalg.norm(x) / np.linalg.norm(y))
    assert abs(np.mean(errors)) < 4 * (2 / buckets / 60) ** 0.5
    assert np.std(errors) < 1.2 * (2 / buckets) ** 0.5


def test_a_column_of_a_matrix_does_not_gather_in_few_buckets(rng: np.random.Generator) -> None:
    x = np.zeros((512, 4096), np.float32)
    x[:, 17] = rng.standard_normal(512)
    assert np.count_nonzero(sketch_of(x.ravel(), 0, 10_007)) > 480


def test_the_sample_is_spread_evenly_seeded_and_ascending() -> None:
    positions = sample_positions(1_000_003, 1000, 0)
    assert positions.size == 1000
    assert (np.diff(positions) > 0).all()
    assert np.histogram(positions, 10, (0, 1_000_003))[0].tolist() == [100] * 10
    np.testing.assert_array_equal(positions, sample_positions(1_000_003, 1000, 0))
    np.testing.assert_array_equal(sample_positions(5, 1000, 0), np.arange(5))
