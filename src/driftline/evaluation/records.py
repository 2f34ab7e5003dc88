"""`evaluation.json` and `sweep.json`: what samples say of a model, and which target is best.

The keys are a contract; docs/outputs.md defines each with its unit. Intervals are [low, high].
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from driftline.files.record import UNSET, Record, UnsetType

Kind: TypeAlias = Literal["forecast", "checkpoint"]
"""Of a candidate: a target beyond the last checkpoint, or a checkpoint of the run."""

_AT_K = {"avg_at_k": "avg@k", "pass_at_k": "pass@k", "pass_at_k_interval": "pass@k_interval"}


class Difference(Record):
    """First minus second, on the same problems."""

    mean: float
    interval: list[float]
    p_value: float


class Figures(Record, rename=_AT_K):
    """What the samples of one model say; pass@k by k, as text."""

    avg_at_k: float
    interval: list[float]
    pass_at_k: dict[str, float]
    pass_at_k_interval: dict[str, list[float]]
    response_tokens: float
    truncated: float
    mean_score: float


class MatchedFigures(Figures):
    """Of the late model at the temperature at which it is as sure of its tokens as the forecast."""

    temperature: float


class EntropyMatch(Record):
    """The late model's temperature with the forecast's mean entropy, and the entropies, in nats a token."""

    temperature: float
    forecast: float
    late: float  # at the temperature of the forecast
    matched: float
    tokens: int


class Control(Record, kw_only=True):
    """A forecast beside the late model; `greedy` has the scores of both at temperature 0, where they were sampled above."""

    late: Figures
    entropy: EntropyMatch
    greedy: dict[str, float] | UnsetType = UNSET
    late_matched: MatchedFigures
    gain: Difference
    beyond_sharpening: Difference
    verdict: str
    sentence: str


class Against(Record, rename=_AT_K):
    """Another evaluation of the same problems, and this one minus that."""

    folder: str
    avg_at_k: float
    difference: Difference


class EvaluationRecord(Record, kw_only=True, rename=_AT_K):
    """`evaluation.json`: the figures of a model or of extrapolated decoding, and how they came about.

    `backend` is there where it is not transformers in driftline's own process, `endpoint` where that is a server.
    """

    driftline: str
    task: str
    problems: int
    samples: int
    avg_at_k: float
    interval: list[float]
    pass_at_k: dict[str, float]
    pass_at_k_interval: dict[str, list[float]]
    response_tokens: float
    truncated: float
    mean_score: float
    late: str
    early: str | None
    alpha: float | None
    beside: str | UnsetType = UNSET
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    dtype: str
    backend: str | UnsetType = UNSET
    endpoint: str | UnsetType = UNSET
    extraction: str
    verifier: str
    digest: str
    control: Control | UnsetType = UNSET
    against: Against | UnsetType = UNSET
    versions: dict[str, str]
    seconds: float


class Round(Record):
    """Of successive halving: how many candidates were in it, and how many problems each had seen by its end."""

    candidates: int
    problems: int


class Scored(Figures, kw_only=True):
    """A target or a checkpoint, and how many problems it has seen; `folder` where it can be loaded from."""

    kind: Kind | UnsetType = UNSET  # sweeps of before had forecasts alone as candidates
    step: int
    folder: str | UnsetType = UNSET
    problems: int


class ModelAtStep(Record):
    """A checkpoint, for commands that take a model."""

    step: int
    folder: str


class Best(Record, kw_only=True):
    """The best candidate beside the last checkpoint that was used, its `baseline`; p-values times how many were tried."""

    kind: Kind | UnsetType = UNSET
    step: int
    baseline: int
    better: bool
    surer: bool
    difference: Difference
    p_value_corrected: float
    beyond_p_value_corrected: float | UnsetType = UNSET


class SweepRecord(Record, kw_only=True):
    """`sweep.json`: the score of every target and checkpoint, and the best; `forecast` where there are targets, `backend`
    and `endpoint` as of an evaluation.
    """

    driftline: str
    run: str
    steps: list[int]
    space: str
    forecast: str | UnsetType = UNSET
    early: ModelAtStep
    late: ModelAtStep
    task: str
    problems: int
    samples: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    backend: str | UnsetType = UNSET
    endpoint: str | UnsetType = UNSET
    rounds: list[Round]
    candidates: list[Scored]
    observed: list[Scored]
    best: Best
    sentence: str
    control: Control
    versions: dict[str, str]
    seconds: float

    @property
    def winner(self) -> Scored:
        """The candidate that `best` speaks of."""
        wanted = self.best.kind or "forecast", self.best.step
        return next(c for c in self.candidates if (c.kind or "forecast", c.step) == wanted)
