"""Projecting LoRA adapters: the product B A goes along the line, at its own rank; the factors follow.

B A is not linear in A and B, so a line through the factors is not one through the weights. The projected
product sum_t a_t B_t A_t has rank up to T r; it is cut to r by its singular values. Of all factors of the
result those nearest to the present A are taken, so that the optimizer's moments and the usual scales of A
(as initialised) and B (from 0) go on to mean what they did.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from driftline.training.hooks import Values


def is_factor(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def pairs(names: Values) -> list[tuple[str, str]]:
    """Names of A and B of every adapter."""
    return [(name, name.replace(".lora_A.", ".lora_B.")) for name in names if ".lora_A." in name]


def combine_products(points: list[Values], a: np.ndarray) -> float:
    """B A <- sum_t a_t B_t A_t at rank r, in place in the last point, for every adapter.

    Returns:
        ||what the cut to rank r discarded|| / ||projected products||, over all adapters.
    """
    lost = whole = 0.0
    for name_a, name_b in pairs(points[-1]):
        A, B = points[-1][name_a], points[-1][name_b]  # [r, in], [out, r]
        r = A.shape[0]
        left = torch.cat(
            [c * point[name_b].to(A.device, torch.float64) for c, point in zip(a.tolist(), points, strict=True)], 1
        )
        right = torch.cat([point[name_a].to(A.device, torch.float64) for point in points])
        (P, R), (Q, S) = torch.linalg.qr(left), torch.linalg.qr(right.T)
        U, sizes, V = torch.linalg.svd(R @ S.T)
        rows = V[:r] @ Q.T  # [r, in], orthonormal: the row space of the result
        within = A.double() @ rows.T  # the present A in it
        A.copy_(within @ rows)
        B.copy_((P @ U[:, :r]) * sizes[:r] @ torch.linalg.pinv(within))
        lost += float(sizes[r:].square().sum())
        whole += float(sizes.square().sum())
    return math.sqrt(lost / whole) if whole > 0 else 0.0
