"""W <- sum_t a_t W_t over points of a run, and the Gram that the coefficients are fitted to; on local shards as on wholes."""

from __future__ import annotations

import numpy as np
import torch

from driftline.training import lora
from driftline.training.hooks import Values

_PIECE = 1 << 20  # weights combined at once: few enough for the caches, and bounds the fp32 copies


def deltas_gram(points: list[Values], *, sharded: bool = False) -> np.ndarray:
    """G [T, T] of the deltas of T points from the first, over all parameters and all shards; fp32, summed in fp64.

    Where some parameters are replicated and others sharded the sum over processes counts the former more often.
    """
    T = len(points)
    gram = np.zeros((T, T))
    for name, last in points[-1].items():
        for pieces in zip(*(_pieces(point[name]) for point in points), strict=True):
            first, *rest = (piece.to(last.device, torch.float32).flatten() for piece in pieces)
            deltas = torch.stack([piece - first for piece in rest])
            gram[1:, 1:] += (deltas @ deltas.T).cpu().double().numpy()
    if sharded:
        total = torch.from_numpy(gram).to(next(iter(points[-1].values())).device)
        torch.distributed.all_reduce(total)
        gram = total.cpu().numpy()
    return gram


def project(points: list[Values], a: np.ndarray) -> float:
    """W <- sum_t a_t W_t in place in the last point, in fp32, for coefficients whose sum is 1; LoRA factors by their product.

    Returns:
        What the cut of the products to their rank discarded, see `lora.combine_products`; 0 without adapters.
    """
    for name, last in points[-1].items():
        if lora.is_factor(name):
            continue
        for *earlier, late in zip(*(_pieces(point[name]) for point in points), strict=True):
            now = late.float()
            change = torch.zeros_like(now)
            for coefficient, piece in zip(a[:-1], earlier, strict=True):
                change.add_(piece.to(last.device, torch.float32) - now, alpha=float(coefficient))
            late.copy_(now + change)
    return lora.combine_products(points, a)


def _pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tensor.view(-1).split(_PIECE) if tensor.is_contiguous() else (tensor,)
