"""Two models in one vLLM engine, whose next token comes from early + alpha (late - early) in logits.

Both read the same tokens, each with its own paged cache: their layers stand under the prefixes `early` and `late`. The
late model's folder is the engine's model; `hf_overrides` name this class and, under `driftline`, the rest:

    {"architectures": ["ExtrapolatedForCausalLM"],
     "driftline": {"early": FOLDER, "alpha": 1.5, "architectures": {"early": "Qwen3ForCausalLM", "late": ...}}}

`checks.pair_overrides` makes them; what a user can get wrong is refused there, before an engine starts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from vllm.compilation.backends import set_model_tag
from vllm.model_executor.model_loader import DefaultModelLoader
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.transformers_utils.config import checkpoint_has_lm_head, get_config, get_hf_text_config

from driftline.checkpoints.ties import is_of_vocabulary
from driftline.decoding.distribution import combine_logits
from driftline.decoding.vllm.alpha import PROCESSOR, RequestAlpha, rows_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_EARLY = "early."


class ExtrapolatedForCausalLM(nn.Module):
    """early + alpha (late - early) in logits; alpha is the server's, or that of the request (`alpha.RequestAlpha`)."""

    is_text_generation_model = True
    early: Any
    late: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        _refuse_unfit(vllm_config)
        config = vllm_config.model_config.hf_config
        pair: dict[str, Any] = config.driftline
        early = get_config(pair["early"], trust_remote_code=False)
        text = get_hf_text_config(early)
        if checkpoint_has_lm_head(pair["early"]):  # of the late model, vLLM has seen to it
            early.tie_word_embeddings = text.tie_word_embeddings = False
        text.vocab_size = get_hf_text_config(config).vocab_size  # without padding, where the two differ in it
        self.vocabulary, self.width = text.vocab_size, text.hidden_size
        self.alpha = float(pair["alpha"])
        inner: dict[str, Any] = {}
        self.requested = rows_of(vllm_config)
        for name, of_it in (("early", early), ("late", config)):
            architecture = [pair["architectures"][name]]
            # its own tag: else a model compiled before, whose layers have other names, would be taken for it
            with set_model_tag(f"driftline_{name}"):
                inner[name] = init_vllm_registered_model(
                    _of_model(vllm_config, of_it),
                    prefix=maybe_prefix(prefix, name),
                    hf_config=of_it,
                    architectures=architecture,
                )
            _refuse_kind(inner[name], architecture[0])
        self.early, self.late = inner["early"], inner["late"]
        self.secondary_weights = [DefaultModelLoader.Source(pair["early"], revision=None, prefix=_EARLY)]

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("two models have no embeddings in common: give tokens")

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [tokens, of early + of late]."""
        early, late = (model(input_ids, positions) for model in (self.early, self.late))
        return torch.cat([early, late], dim=-1)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Extrapolated logits [N, V] in float32; None on a rank that is given none."""
        early = self.early.compute_logits(hidden_states[..., : self.width].contiguous())
        late = self.late.compute_logits(hidden_states[..., self.width :].contiguous())
        if early is None or late is None:
            return None
        return combine_logits(early, late, self.requested.take(self.alpha, late))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """The late model's weights under their own names, the early one's under `early.`; names of what was loaded."""
        loaded: set[str] = set()
        for is_early, those in groupby(weights, key=lambda one: one[0].startswith(_EARLY)):
            model, prefix = (self.early, _EARLY) if is_early else (self.late, "late.")
            loaded |= {prefix + name for name in model.load_weights(self._without_padding(those))}
        return loaded

    def _without_padding(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights:
            name = name.removeprefix(_EARLY)
            yield name, tensor[: self.vocabulary] if is_of_vocabulary(name) else tensor


def _of_model(vllm_config: VllmConfig, config: Any) -> VllmConfig:
    """The engine's configuration with all that follows from a model's own."""
    found = copy.copy(vllm_config)
    found.model_config = copy.deepcopy(vllm_config.model_config)
    found.model_config.hf_config = config
    found.model_config.hf_text_config = get_hf_text_config(config)
    return found


def _refuse_unfit(vllm_config: VllmConfig) -> None:
    """Refuse an engine in which the pair would go wrong; `driftline serve --backend vllm` starts one that is right."""
    processors = vllm_config.model_config.logits_processors or []
    if not any(one in (PROCESSOR, RequestAlpha) for one in processors):
        raise ValueError(f"the alpha of requests would be ignored: start vLLM with --logits-processors {PROCESSOR}")
    if getattr(vllm_config, "use_v2_model_runner", False):
        raise ValueError("two models need vLLM's first model runner: set VLLM_USE_V2_MODEL_RUNNER=0")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise ValueError("two models cannot be split into stages: leave out --pipeline-parallel-size")
    if vllm_config.speculative_config is not None:
        raise ValueError("two models cannot be sped up by a third: leave out --speculative-config")
    if vllm_config.lora_config is not None:
        raise ValueError("vLLM's LoRA cannot tell two models apart: leave out --enable-lora")


def _refuse_kind(inner: nn.Module, architecture: str) -> None:
    for kind in ("has_inner_state", "is_hybrid", "is_attention_free", "supports_multimodal"):
        if getattr(inner, kind, False):
            raise ValueError(
                f"{architecture} is no plain decoder ({kind}): write a forecast with driftline extrapolate"
            )
    if type(inner).__name__.startswith("Transformers"):
        raise ValueError(f"{architecture} is not one of vLLM's own models: write a forecast with driftline extrapolate")
