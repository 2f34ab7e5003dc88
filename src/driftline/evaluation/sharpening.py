"""The control for sharpening: is a forecast better than the late model, or only surer?

Extrapolated logits are narrower with alpha above 1, as are those of extrapolated weights as a rule, and a narrower
distribution alone makes sampled answers better. So the late model (of a forecast in weights, the checkpoint that it is
set beside) is also sampled at the temperature at which its
tokens have the same mean entropy, and a gain over the late model that this control shares is called sharpening.

    H(T) = mean over tokens of the entropy of softmax(logits / T), in nats; T* solves H_late(T*) = H_forecast(T)

H_late grows with T, so T* is found by bisection. Entropies are after temperature only, before top-p and top-k,
under teacher forcing on the same responses for both. Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from driftline.decoding.distribution import combine_logits
from driftline.evaluation.records import Difference, EntropyMatch

if TYPE_CHECKING:
    import torch

    from driftline.decoding.sampler import Sampler

_LOGITS = 1 << 27  # of the late model held at once, in float32: half a gigabyte
_COLDEST, _HOTTEST = 1e-3, 1e2
_HALVINGS = 40
_LEVEL = 0.05

Pair = tuple[Sequence[int], Sequence[int]]  # token ids of a prompt and of its response, at least one each


def entropies(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of the tokens' distributions [N], from logits [N, V], in nats; 0 for temperature 0."""
    import torch

    if temperature == 0:
        return torch.zeros(len(logits))
    return torch.special.entr((logits.float() / temperature).softmax(-1)).sum(-1)


def matched_temperature(logits: torch.Tensor, entropy: float) -> float:
    """The temperature at which logits [N, V] have that mean entropy; the nearest end of 0.001 to 100 if none has."""
    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if entropies(logits, math.exp(middle)).mean() < entropy:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def match(forecast: Sampler, late: Sampler, pairs: Sequence[Pair], temperature: float) -> EntropyMatch:
    """The temperature at which `late` is as sure as `forecast` at `temperature`, on some sampled responses.

    Of long responses with large vocabularies only evenly spaced tokens are used, as many as fit in memory.
    """
    import torch

    total = sum(len(response) for _, response in pairs)
    seen, entropy, kept = 0, 0.0, []
    for prompt, response in pairs:
        first, second = (response_logits(sampler, prompt, response) for sampler in (forecast, late))
        stride = math.ceil(total * second.shape[-1] / _LOGITS)
        entropy += float(entropies(first[-seen % stride :: stride], temperature).sum())
        kept.append(second[-seen % stride :: stride].clone())
        seen += len(response)
    logits = torch.cat(kept)
    goal = entropy / len(logits)
    found = matched_temperature(logits, goal) if temperature > 0 else 0.0
    before, matched = (float(entropies(logits, t).mean()) for t in (temperature, found))
    return EntropyMatch(temperature=found, forecast=goal, late=before, matched=matched, tokens=len(logits))


def response_logits(sampler: Sampler, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """What a sampler draws each of a response's n tokens from under teacher forcing: logits [n, V], in float32."""
    import torch

    ids = torch.tensor([[*prompt, *response[:-1]]], device=sampler.late.device)
    inputs = {"input_ids": ids, "use_cache": False, "logits_to_keep": len(response)}
    with torch.inference_mode():
        late = sampler.late(**inputs).logits[0].float()
        return late if sampler.early is None else combine_logits(sampler.early(**inputs).logits[0], late, sampler.alpha)


def judge(gain: Difference, beyond: Difference, tried: int = 1) -> str:
    """What a comparison shows: `gain`, `sharpening`, `loss` or `nothing` told from chance at the 5 % level.

    Args:
        gain: forecast minus late, at one temperature.
        beyond: forecast minus the late model at the matched temperature.
        tried: of how many forecasts this is the best: both p-values are multiplied by it.
    """
    if gain.p_value * tried >= _LEVEL:
        return "nothing"
    if gain.mean < 0:
        return "loss"
    return "gain" if beyond.mean > 0 and beyond.p_value * tried < _LEVEL else "sharpening"


def sentence(
    verdict: str,
    what: str,
    beside: str,
    scores: tuple[float, float, float],
    temperature: float,
    beyond: Difference,
) -> str:
    """The verdict in words.

    Args:
        what, beside: the forecast, and the model that it is set beside, in words.
        scores: avg@k of the forecast, of the model beside it, and of that at the matched temperature.
        beyond: forecast minus that model at the matched temperature.
    """
    forecast, late, matched = scores
    told = f"{what} scores {forecast:.3f}, {beside} {late:.3f}"
    control = f"at temperature {temperature:.3g}, where it is as sure of its tokens, that scores {matched:.3f}"
    low, high = beyond.interval
    more = f"{beyond.mean:+.3f} over that (95 %: {low:+.3f} to {high:+.3f})"
    return {
        "nothing": f"{told}: no difference is told from chance ({control})",
        "loss": f"{told}: it is worse ({control})",
        "gain": f"{told}; {control}: the gain goes beyond sharpening, by {more}",
        "sharpening": f"{told}; {control}: {more} is not told from chance, so the gain counts as sharpening",
    }[verdict]
