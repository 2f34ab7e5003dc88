"""Extrapolated logits inside any `late.generate(...)`: a logits processor that runs the early model beside it.

    late.generate(**batch, logits_processor=[ExtrapolatedLogits(early, alpha=1.5, pad_token_id=tokenizer.pad_token_id)])

Both models read every token once, in lockstep, which costs about twice one model; `Sampler` is faster.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor

from driftline.decoding.distribution import combine_logits
from driftline.decoding.reader import Reader


class ExtrapolatedLogits(LogitsProcessor):
    """Turns the late model's scores [B, V] into early + alpha (late - early).

    Prompts may be padded on the left. A new `generate` call starts afresh: rows are known by their token ids,
    so that beams, which change places, keep their caches. Scores leave with the normaliser they came with,
    since beam search hands over log-probs.
    """

    def __init__(
        self,
        early: Any,
        alpha: float,
        *,
        pad_token_id: int | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> None:
        """
        Args:
            early: the model of the early checkpoint (or `adapter.Adapted`).
            pad_token_id: the leading tokens of a prompt that are this one are padding; None: there is none.
            attention_mask: [B, L] of the prompts, in place of `pad_token_id`, for prompts that themselves
                begin with the padding token; good for calls with these prompts only.
        """
        self.early, self.alpha, self.pad_token_id, self.attention_mask = early, alpha, pad_token_id, attention_mask
        self._seen: torch.Tensor | None = None  # [B, S], what the cache holds

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        ids = input_ids.to(self.early.device)
        with torch.inference_mode():
            rows = self._rows_of(ids[:, :-1])
            if rows is None:
                self._reader = Reader(self.early)
                self._mask = self._prompt_mask(ids)
                new = ids
            else:
                if not torch.equal(rows, torch.arange(len(self._mask), device=ids.device)):
                    self._reader.pack(rows, torch.arange(ids.shape[1] - 1, device=ids.device).expand(len(ids), -1))
                self._mask = torch.cat([self._mask[rows], self._mask.new_ones(len(ids), 1)], 1)
                new = ids[:, -1:]
            self._seen = ids
            positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
            early = self._reader.read(new, self._mask, positions, keep=1)[:, -1].to(scores.device)
        combined = combine_logits(early, scores, self.alpha)
        shift = scores.float().logsumexp(-1, keepdim=True) - combined.logsumexp(-1, keepdim=True)
        return combined + shift

    def _rows_of(self, ids: torch.Tensor) -> torch.Tensor | None:
        """For each row of `ids` a row of the cache that holds just these tokens; None unless all have one."""
        if self._seen is None or self._seen.shape[1] != ids.shape[1]:
            return None
        if torch.equal(ids, self._seen):
            return torch.arange(len(ids), device=ids.device)
        same = (ids[:, None] == self._seen[None]).all(-1)  # [B, rows of the cache]
        if not same.any(1).all():
            return None
        return same.int().argmax(1)

    def _prompt_mask(self, ids: torch.Tensor) -> torch.Tensor:
        if self.attention_mask is not None:
            if self.attention_mask.shape[1] != ids.shape[1] or len(ids) % len(self.attention_mask):
                raise ValueError(
                    f"attention_mask is {tuple(self.attention_mask.shape)} and the prompts {tuple(ids.shape)}: give the mask of these prompts"
                )
            return self.attention_mask.to(ids.device).repeat_interleave(len(ids) // len(self.attention_mask), 0)
        if self.pad_token_id is None:
            return torch.ones_like(ids)
        return ((ids != self.pad_token_id).cumsum(1) > 0).long()
