"""What a pair of models must be for vLLM, seen from their configurations and tokenizers, before an engine starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.decoding.sources import common_rows
from driftline.decoding.vllm.plugin import ARCHITECTURE
from driftline.errors import InputError
from driftline.models import configuration_of, load_tokenizer, refuse_different_vocabularies

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FORECAST = "write a forecast with driftline extrapolate, and serve that"


def pair_overrides(early: Path, late: Path, alpha: float) -> tuple[dict[str, Any], int | None]:
    """What vLLM's `hf_overrides` must say of a pair of model folders, and the longest context that both allow.

    The context is None where the late model's own is right.

    Raises:
        InputError: they are of different tokenizers, or one is of a kind that is not decoded in pairs.
    """
    first, last = configuration_of(early), configuration_of(late)
    architectures = {"early": decoder_of(first, early), "late": decoder_of(last, late)}
    refuse_different_vocabularies(early, late)
    windows = [getattr(config, "sliding_window", None) for config in (first, last)]
    if windows[0] != windows[1]:  # what vLLM's layers take where a model's code hands them none
        raise InputError(
            f"sliding_window of {early} is {windows[0]} and of {late} {windows[1]}, and vLLM has one for both: {_FORECAST}"
        )
    tokens = max(load_tokenizer(late).get_vocab().values()) + 1
    overrides = {
        "architectures": [ARCHITECTURE],
        "vocab_size": common_rows(first.vocab_size, last.vocab_size, tokens),
        "driftline": {"early": str(early.absolute()), "alpha": float(alpha), "architectures": architectures},
    }
    shorter, longer = (getattr(config, "max_position_embeddings", None) for config in (first, last))
    return overrides, shorter if shorter and longer and shorter < longer else None


def decoder_of(config: PreTrainedConfig, folder: Path) -> str:
    """The architecture of a causal decoder of text, by the name that vLLM knows it under.

    Raises:
        InputError: the model is of another kind.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{folder} is an encoder with a decoder, which vLLM does not decode in pairs: give a decoder alone"
        )
    if config.get_text_config() is not config or hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        raise InputError(
            f"{folder} takes more than text ({config.model_type}), which vLLM does not decode in pairs: {_FORECAST}"
        )
    named = next(iter(config.architectures or ()), None) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if named is None or not named.endswith(("ForCausalLM", "LMHeadModel")):
        raise InputError(
            f"{folder} is {named or config.model_type}, which draws no tokens: give a causal language model (ForCausalLM)"
        )
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        if getattr(model, "_is_stateful", False):
            raise InputError(
                f"{folder} carries a state from token to token ({config.model_type}), which vLLM does not decode in "
                f"pairs: {_FORECAST}"
            )
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{folder} is quantised, which vLLM does not decode in pairs: give the models as they were trained"
        )
    return named
