"""A model and what it remembers of the tokens it has read: slots that can be dropped, and rows that come and go.

Shapes: B rows, K tokens read at once, S slots of the cache, H heads, D numbers of each, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Reader:
    """A model and the keys and values of what it has read, in slots that can be dropped."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model, self.cache = model, DynamicCache()  # without a configuration: no layer forgets old slots

    def read(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, keep: int = 0) -> torch.Tensor:
        """Logits [B, K, V] after each of `ids` [B, K], or of the last `keep` only; `mask` [B, S + K] marks the slots in use."""
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits

    def crop(self, slots: int) -> None:
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :slots], layer.values[:, :, :slots]

    def pack(self, rows: torch.Tensor, slots: torch.Tensor) -> None:
        """Keep the given rows [R], of each the given slots [R, S]."""
        for layer in self.cache.layers:
            index = slots[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys = layer.keys.index_select(0, rows).gather(2, index)
            index = slots[:, None, :, None].expand(-1, layer.values.shape[1], -1, layer.values.shape[3])
            layer.values = layer.values.index_select(0, rows).gather(2, index)

    def join(self, other: Reader, rows: int, more: int) -> None:
        """Put the other's `more` rows under these `rows`; the shorter ones are padded on the left."""
        mine, theirs = self.cache.layers, other.cache.layers
        if not mine and not rows:
            self.cache = other.cache
            return
        if not mine or not theirs:  # prompts of one token: nothing was read
            like = mine or theirs
            for layer in like:
                for name in ("keys", "values"):
                    tensor = getattr(layer, name)
                    absent = tensor.new_empty(more if mine else rows, tensor.shape[1], 0, tensor.shape[3])
                    setattr(layer, name, _under(tensor, absent) if mine else _under(absent, tensor))
            self.cache = self.cache if mine else other.cache
            return
        for layer, new in zip(mine, theirs, strict=True):
            layer.keys, layer.values = _under(layer.keys, new.keys), _under(layer.values, new.values)


def _under(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Two caches [R, H, S, D] as one, padded on the left."""
    import torch

    slots = max(above.shape[2], below.shape[2])
    return torch.cat([torch.nn.functional.pad(x, (0, 0, slots - x.shape[2], 0)) for x in (above, below)])
