"""Teacher-forced log-probs of fixed responses under one model, in bounded memory.

Float32 log-softmax at temperature 1 over the whole vocabulary, without truncation. The model's body runs on
whole sequences; its head runs on blocks of positions, so that [tokens x vocabulary] is never held for more
than one block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from driftline.outputs.rollouts import Rollout, batches
from driftline.progress import Advance, unseen

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKENS = 8192  # of one batch, padding counted
_LOGITS = 1 << 24  # of one block: 64 MiB in float32


def token_logprobs(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    *,
    progress: Advance = unseen,
) -> np.ndarray:
    """Log-prob, in nats, of every response token given all before it: float32 [tokens], rollout after rollout.

    A prompt that several rollouts share is run once.
    """
    import torch

    offsets = np.concatenate([[0], np.cumsum([len(rollout.response_ids) for rollout in rollouts])])
    out = np.empty(offsets[-1], np.float32)
    head = _head(model)

    def keep(rows: Sequence[int], hidden: torch.Tensor) -> None:
        """Score the responses of `rows`, from the hidden states [tokens, width] that predict their tokens."""
        targets = torch.tensor([token for row in rows for token in rollouts[row].response_ids], device=hidden.device)
        scores, done = _scores(head, hidden, targets).cpu().numpy(), 0
        for row in rows:
            n = len(rollouts[row].response_ids)
            out[offsets[row] : offsets[row + 1]] = scores[done : done + n]
            done += n
        progress(sum(rollouts[row].length for row in rows))

    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, rollout in enumerate(rollouts):
        by_prompt.setdefault(rollout.prompt_ids, []).append(row)
    alone = [rows[0] for rows in by_prompt.values() if len(rows) == 1]
    with torch.inference_mode():
        for group in batches([rollouts[row].length for row in alone], _TOKENS):
            rows = [alone[i] for i in group]
            keep(rows, _whole(model, [rollouts[row] for row in rows]))
        for prompt, rows in by_prompt.items():
            if len(rows) > 1:
                lengths = [len(rollouts[row].response_ids) for row in rows]
                groups = [[rows[i] for i in group] for group in batches(lengths, max(_TOKENS - len(prompt), 1))]
                for part, hidden in zip(groups, _after(model, prompt, groups, rollouts), strict=True):
                    keep(part, hidden)
    return out


def _whole(model: PreTrainedModel, rollouts: Sequence[Rollout]) -> torch.Tensor:
    """Hidden states [tokens, width] that predict the responses, from prompts and responses run together."""
    ids, mask = padded([rollout.prompt_ids + rollout.response_ids for rollout in rollouts], model.device)
    hidden = _body(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    wanted = mask.new_zeros(mask.shape).bool()  # positions whose next token is scored
    for i, rollout in enumerate(rollouts):
        wanted[i, len(rollout.prompt_ids) - 1 : rollout.length - 1] = True
    return hidden[wanted]


def _after(
    model: PreTrainedModel, prompt: Sequence[int], groups: Sequence[Sequence[int]], rollouts: Sequence[Rollout]
) -> Iterator[torch.Tensor]:
    """The same for groups of rollouts that share a prompt: it is run once, and its keys and values kept."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    ids, mask = padded([prompt], model.device)
    last = _body(model)(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).last_hidden_state[
        :, -1:
    ]
    for rows in groups:
        fed, mask = padded([rollouts[row].response_ids[:-1] for row in rows], model.device)
        hidden = last.expand(len(rows), -1, -1)
        if fed.shape[1]:
            seen = copy.deepcopy(cache)
            seen.batch_repeat_interleave(len(rows))
            everything = torch.cat([mask.new_ones(len(rows), len(prompt)), mask], 1)
            more = _body(model)(input_ids=fed, attention_mask=everything, past_key_values=seen, use_cache=True)
            hidden = torch.cat([hidden, more.last_hidden_state], 1)
        wanted = torch.cat([mask.new_ones(len(rows), 1), mask], 1).bool()
        yield hidden[wanted]


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
