"""A forecast beside the late model: sampled alike, greedy, and the late one at the matched temperature.

Arms, which are also what their samples are called:

    late                           the late model, sampled as the forecast
    late-matched                   at the temperature that makes it as sure of its tokens (`sharpening`)
    forecast-greedy, late-greedy   both at temperature 0

Greedy decoding cannot be sharpened: at temperature 0 the late model's own greedy answers are the control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import asdict

from driftline.decoding.backends.decoder import Decoder
from driftline.decoding.settings import GenerationSettings
from driftline.evaluation import sharpening
from driftline.evaluation.metrics import paired_difference
from driftline.evaluation.records import UNSET, Control, MatchedFigures
from driftline.evaluation.samples import figures, right
from driftline.evaluation.tasks import Task
from driftline.files.lines import Row
from driftline.prompts import token_ids

if TYPE_CHECKING:
    from driftline.decoding.sampler import Sampler

Draw: TypeAlias = Callable[[str, Decoder, GenerationSettings], list[Row]]
"""The samples of an arm of a name, by a decoder and settings."""

_MATCHED_PROBLEMS = 16  # whose first responses say how sure each model is


def controls(settings: GenerationSettings) -> dict[str, GenerationSettings]:
    """The arms besides `late` that are drawn, and how; the temperature of `late-matched` is found on the way."""
    if settings.temperature == 0:
        return {}
    greedy = replace(settings, temperature=0.0, samples=1)
    return {"late-matched": settings, "forecast-greedy": greedy, "late-greedy": greedy}


def _ids(row: Row, sampler: Sampler) -> list[int]:
    """A response's tokens; of a server that does not tell them, those of its text, with the end where it ended."""
    if row["response_ids"] is not None:
        return list(row["response_ids"])
    ids = token_ids(sampler.tokenizer, row["response"], "a response of the server", special=False)
    end = sampler.tokenizer.eos_token_id
    return [*ids, *([end] if row["finish_reason"] == "stop" and end is not None else [])]


def compare_with_late(
    draw: Draw,
    named: tuple[str, str],
    forecast: Decoder,
    late: Decoder,
    rows: list[Row],
    task: Task,
    settings: GenerationSettings,
    *,
    tried: int = 1,
) -> tuple[dict[str, list[Row]], Control]:
    """A forecast beside the late model.

    Args:
        named: the forecast and the late model, in words.
        rows: samples of the forecast by `settings`.
        tried: of how many this forecast is the best; the verdict counts them.

    Returns:
        The samples of each arm, and what they say: figures, entropies, differences and verdict.
    """
    k = settings.samples
    arms = {"late": draw("late", late, settings)}
    with forecast.with_logits() as first, late.with_logits() as second:
        pairs = [
            (task.prompt(row["index"], second.tokenizer).ids, _ids(row, second))
            for drawn in (rows, arms["late"])
            for row in drawn[: _MATCHED_PROBLEMS * k : k]
        ]
        pairs = [(prompt, response) for prompt, response in pairs if response]
        match = sharpening.match(first, second, pairs, settings.temperature)
    temperature = float(f"{match.temperature:.4g}")
    for arm, asked in controls(settings).items():
        if arm == "late-matched":
            asked = replace(asked, temperature=temperature)
        arms[arm] = draw(arm, forecast if arm == "forecast-greedy" else late, asked)
    matched = arms.get("late-matched", arms["late"])
    shares, base, control = (right(drawn, k).mean(1) for drawn in (rows, arms["late"], matched))
    gain, beyond = (paired_difference(shares, other, tried=tried) for other in (base, control))
    verdict = sharpening.judge(gain, beyond, tried)
    scores = float(shares.mean()), float(base.mean()), float(control.mean())
    greedy = {
        arm.removesuffix("-greedy"): float(right(drawn, 1).mean())
        for arm, drawn in arms.items()
        if arm.endswith("-greedy")
    }
    record = Control(
        late=figures(arms["late"], k),
        entropy=match,
        greedy=greedy or UNSET,
        late_matched=MatchedFigures(temperature=temperature, **asdict(figures(matched, k))),
        gain=gain,
        beyond_sharpening=beyond,
        verdict=verdict,
        sentence=sharpening.sentence(verdict, *named, scores, temperature, beyond),
    )
    return arms, record
