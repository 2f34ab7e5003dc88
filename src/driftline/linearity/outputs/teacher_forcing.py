"""Teacher-forced log-probs of fixed responses under one model, in bounded memory.

Float32 log-softmax at temperature 1 over the whole vocabulary, without truncation. The model's body runs on
whole sequences; its head runs on blocks of positions, so that [tokens x vocabulary] is never held for more
than one block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from driftline.linearity.outputs.rollouts import Rollout, batches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKENS = 8192  # of one batch, padding counted
_LOGITS = 1 << 24  # of one block: 64 MiB in float32


def token_logprobs(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    *,
    progress: Callable[[int], None] = lambda tokens: None,
) -> np.ndarray:
    """Log-prob, in nats, of every response token given all before it: float32 [tokens], rollout after rollout."""
    import torch

    offsets = np.concatenate([[0], np.cumsum([len(rollout.response_ids) for rollout in rollouts])])
    out = np.empty(offsets[-1], np.float32)
    head = _head(model)
    with torch.inference_mode():
        for rows in batches([rollout.length for rollout in rollouts], _TOKENS):
            batch = [rollouts[row] for row in rows]
            ids, mask = padded([rollout.prompt_ids + rollout.response_ids for rollout in batch], model.device)
            hidden = _body(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            wanted = torch.zeros_like(mask, dtype=torch.bool)  # positions whose next token is scored
            for i, rollout in enumerate(batch):
                wanted[i, len(rollout.prompt_ids) - 1 : rollout.length - 1] = True
            targets = torch.roll(ids, -1, dims=1)[wanted]
            scores = _scores(head, hidden[wanted], targets).cpu().numpy()
            done = 0
            for row, rollout in zip(rows, batch, strict=True):
                n = len(rollout.response_ids)
                out[offsets[row] : offsets[row + 1]] = scores[done : done + n]
                done += n
            progress(int(mask.sum()))
    return out


def padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [rows, longest], padded on the right, where causal attention never looks."""
    import torch

    width = max(map(len, sequences))
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def _body(model: PreTrainedModel) -> torch.nn.Module:
    """The model without its head."""
    return getattr(model, model.base_model_prefix)


def _head(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """From hidden states [n, width] to float32 logits [n, vocabulary], as the model itself makes them."""
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    divisor = getattr(config, "logits_scaling", None)  # Granite
    factor = getattr(config, "logit_scale", None)  # Cohere

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        values = output(hidden)
        if divisor:
            values = values / divisor
        if factor:
            values = values * factor
        if softcap:
            values = (values / softcap).tanh() * softcap
        return values.float()

    return logits


def _scores(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    import torch

    vocabulary = head(hidden[:1]).shape[-1]
    block = max(_LOGITS // vocabulary, 1)
    scores = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
    for start in range(0, len(targets), block):
        logits = head(hidden[start : start + block])
        chosen = logits.gather(-1, targets[start : start + block, None]).squeeze(-1)
        scores[start : start + block] = chosen - logits.logsumexp(-1)
    return scores
