"""`alpha` of single requests in vLLM: `vllm_xargs={"alpha": 1.5}`, or `extra_args` of its SamplingParams.

vLLM tells logits processors before each pass of the model which requests stand in which row of the batch. `RequestAlpha`
notes their alphas; the model takes them when it computes the logits of that pass, so that log-probs, penalties and
grammars all see the logits that were asked for.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from driftline.decoding.distribution import FARTHEST

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig

PROCESSOR = f"{__name__}:RequestAlpha"
_KEY = "alpha"


class RowAlphas:
    """The alphas of the batch that the model reads now, by row; a row without its own has the server's.

    Attributes:
        own: row -> alpha, of requests that named one.
        rows: in the batch.
        due: the logits that tokens are drawn from are still to be computed in this pass. Those of prompts, which
            vLLM computes after them, are of requests without an alpha of their own (`RequestAlpha.validate_params`).
    """

    def __init__(self) -> None:
        self.own: dict[int, float] = {}
        self.rows = 0
        self.due = False

    def take(self, otherwise: float, logits: torch.Tensor) -> float | torch.Tensor:
        """The alpha of `logits` [N, V]: one for all, or float32 [N, 1]."""
        import torch

        if not (self.due and self.own):
            return otherwise
        self.due = False
        if len(logits) != self.rows:
            raise RuntimeError(f"vLLM computes logits of {len(logits)} rows in a batch of {self.rows} requests")
        alphas = [self.own.get(row, otherwise) for row in range(self.rows)]
        return torch.tensor(alphas, dtype=torch.float32).unsqueeze(1).to(logits.device, non_blocking=True)


_found: weakref.WeakValueDictionary[int, RowAlphas] = weakref.WeakValueDictionary()


def rows_of(vllm_config: VllmConfig) -> RowAlphas:
    """What the model and the logits processor of one engine share; both hold it."""
    key = id(vllm_config.model_config)
    found = _found.get(key)
    if found is None:
        found = _found[key] = RowAlphas()
    return found


def own_alpha(params: SamplingParams) -> float | None:
    """The alpha that a request names, or None.

    Raises:
        ValueError: it is no number, or out of range.
    """
    named: Any = (params.extra_args or {}).get(_KEY)
    if named is None:
        return None
    if isinstance(named, bool) or not isinstance(named, (int, float)) or not abs(named) <= FARTHEST:
        raise ValueError(
            f"alpha is {named!r}: give a number between {-FARTHEST:g} and {FARTHEST:g} (1 is the late model, 0 the early one)"
        )
    return float(named)


class RequestAlpha(LogitsProcessor):
    """Keeps note of the alpha of each row; the logits it is given hold it already."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        if own_alpha(sampling_params) is not None and sampling_params.prompt_logprobs is not None:
            raise ValueError(
                "log-probs of the prompt are those of the server's alpha: leave out alpha, or prompt_logprobs and echo"
            )

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.batch = rows_of(vllm_config)

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        self.batch.due = True
        if batch_update is not None:
            process_dict_updates(self.batch.own, batch_update, lambda params, *_: own_alpha(params))
            self.batch.rows = batch_update.batch_size

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self.batch.due and self.batch.own:
            raise RuntimeError("vLLM draws tokens from logits that have not the alpha which their requests name")
        return logits

    def is_argmax_invariant(self) -> bool:
        return False


class NoAlpha(RequestAlpha):
    """Of one model alone: a request that names an alpha is refused, as nothing would come of it."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        if (sampling_params.extra_args or {}).get(_KEY) is not None:
            raise ValueError("alpha needs an early model, and one model alone is served here: leave alpha out")

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self.batch = RowAlphas()  # that no model looks at

    def is_argmax_invariant(self) -> bool:
        return True  # so that greedy batches pass it by
