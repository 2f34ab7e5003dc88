"""Log-probs of given tokens under the extrapolated distribution (temperature 1, nothing truncated)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftline.decoding.distribution import combine_logits

if TYPE_CHECKING:
    from driftline.decoding.sampler import Sampler


def log_probs(
    sampler: Sampler, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 16
) -> list[tuple[list[float], bool]]:
    """For each context and continuation (token ids, at least one each): the log-prob in nats of every
    continuation token, and whether greedy decoding would have produced them all.

    Pairs are read in batches by length, longest first; logits are kept for the continuations only.
    """
    import torch

    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    found: dict[int, tuple[list[float], bool]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [[*pairs[i][0], *pairs[i][1]] for i in batch]
        width, keep = max(map(len, rows)), max(len(pairs[i][1]) for i in batch)
        device = sampler.late.device
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
        inputs = {
            "input_ids": ids[:, :-1],  # what follows the last token is not asked for
            "attention_mask": mask[:, :-1],
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
            "logits_to_keep": keep,
        }
        with torch.inference_mode():
            logits = sampler.late(**inputs, use_cache=False).logits
            if sampler.early is not None:
                logits = combine_logits(sampler.early(**inputs, use_cache=False).logits, logits, sampler.alpha)
            wanted = ids[:, -keep:]
            logits = logits.float()
            values = logits.gather(-1, wanted[..., None])[..., 0] - logits.logsumexp(-1)
            greedy = logits.argmax(-1) == wanted
        for place, i in enumerate(batch):
            count = len(pairs[i][1])
            found[i] = (values[place, -count:].tolist(), bool(greedy[place, -count:].all()))
    return [found[i] for i in range(len(pairs))]
