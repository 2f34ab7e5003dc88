"""Combinations of points, and their Gram, on wholes and on shards."""

from __future__ import annotations

import numpy as np
import torch

from driftline.training.projection import deltas_gram, project


def test_combinations_in_shards_make_the_combination_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    whole = [{"w": torch.randn(7, 5, generator=generator, dtype=torch.bfloat16)} for _ in range(3)]
    shards = [[{"w": point["w"][rows].clone()} for point in whole] for rows in (slice(0, 4), slice(4, 7))]
    a = np.array([-0.5, 0.25, 1.25])
    expected = sum(x * point["w"].double() for x, point in zip(a, whole, strict=True)).bfloat16()
    total = sum(deltas_gram(points) for points in shards)
    np.testing.assert_allclose(total, deltas_gram(whole), rtol=1e-5)
    for points in (whole, *shards):
        assert project(points, a) == 0
    assert torch.equal(torch.cat([points[-1]["w"] for points in shards]), whole[-1]["w"])
    torch.testing.assert_close(whole[-1]["w"], expected, rtol=1e-2, atol=0)


def test_factors_move_by_their_product_and_other_weights_by_themselves():
    A, B = "q.lora_A.default.weight", "q.lora_B.default.weight"
    first = {"w": torch.ones(3), A: torch.ones(1, 2), B: torch.zeros(2, 1)}
    last = {"w": 2 * torch.ones(3), A: torch.ones(1, 2), B: torch.ones(2, 1)}
    assert project([first, last], np.array([-1.0, 2.0])) < 1e-12
    assert torch.equal(last["w"], 3 * torch.ones(3))
    torch.testing.assert_close(last[B] @ last[A], 2 * torch.ones(2, 2))
