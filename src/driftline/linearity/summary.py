"""`summary.json`: what was found about a run as a whole, of weights, log-probs or activations.

The keys are a contract; docs/outputs.md defines each with its unit. Figures are None where there are none, or where
they are not finite.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from driftline.checkpoints.momentum import Momentum
from driftline.errors import InputError
from driftline.files.record import UNSET, Figure, Record, UnsetType, read_record
from driftline.files.regular import read_regular

_R2_KEYS = {"share_above_07": "share_above_0.7"}
_ENDS = {"from_": "from"}


class Counts(Record):
    """How many parameters (or tokens, or activations) there are, and what became of them."""

    total: int
    measured: int
    unchanged: int
    filtered: int
    changed_share: float | UnsetType = UNSET
    kept_share: float | UnsetType = UNSET
    left_out: int | UnsetType = UNSET


class R2(Record, rename=_R2_KEYS):
    mean: Figure
    median: Figure
    q25: Figure
    q75: Figure
    share_above_07: Figure


class NullR2(Record, rename=_R2_KEYS):
    """R² of driftless walks, and how many of them change after rounding and pass the filter."""

    mean: Figure
    median: Figure
    q25: Figure
    q75: Figure
    share_above_07: Figure
    changed_share: float | UnsetType = UNSET
    kept_share: float | UnsetType = UNSET


class Histograms(Record):
    """Counts of R² in equal bins from 0 to 1."""

    run: list[int]
    null: list[int]


class ChanceOfDrift(Record):
    """What chance gives of the figures of drift."""

    increment_cosine: Figure
    adjacent_cosine: Figure
    growth_exponent: Figure


class Drift(Record):
    increment_cosine: Figure
    increment_cosine_sd: Figure
    increment_pairs: int
    adjacent_cosine: Figure
    growth_exponent: Figure
    growth_exponent_se: Figure
    noise_to_drift: Figure
    drift_per_clock: Figure
    effective_dimension: Figure
    null: ChanceOfDrift


class Optimizer(Record):
    adam_beta1: float
    memory_steps: float
    adam_beta1_from: str
    ema: float | UnsetType = UNSET

    @property
    def momentum(self) -> float:
        """That of the null's walks: see `Momentum.effective`."""
        return Momentum(self.adam_beta1, self.adam_beta1_from, self.ema or 0.0).effective

    @property
    def said(self) -> str:
        """In words: beta1, where it was found, and the average."""
        averaged = f", weights averaged with a decay of {self.ema}" if self.ema else ""
        return f"beta1 {self.adam_beta1} ({self.adam_beta1_from}){averaged}"


class PersistenceFigures(Record):
    """Persistence length in steps, [low, high]; a high end that is None beside a length is infinite."""

    length: Figure
    interval: list[Figure]
    at_least: bool


class RankOne(Record):
    energy: Figure
    null_energy: Figure
    coefficient_r2: Figure
    null_coefficient_r2: Figure


class HeldOutSkill(Record):
    """Skill of each method on the last checkpoints, and what chance gives."""

    cutoff: int
    targets: list[int]
    methods: dict[str, Figure]
    null: dict[str, Figure]


class StraightPiece(Record, rename=_ENDS):
    from_: int
    to: int
    r2: Figure


class Regime(Record):
    segments: list[StraightPiece]


class Stretch(Record, rename=_ENDS):
    """Checkpoints between two jumps."""

    from_: int
    to: int
    checkpoints: int


class Jumped(Record):
    """What re-grounding makes of a run's checkpoints."""

    count: int
    rolled_back: int
    virtual_steps: list[int]
    stretches: list[Stretch]
    judged: Stretch
    sentence: str


class LearningRate(Record, kw_only=True):
    """How the learning rate changed between the first and the last checkpoint, where lines are drawn against the step.

    `last` is the last that is known there; `end` the step at which its schedule ends, where that is known.
    """

    highest: float
    lowest: float
    last: float
    end: int | UnsetType = UNSET
    sentence: str


class PValues(Record):
    increment_cosine: float
    growth_exponent: float
    skill: float


class Effect(Record):
    """How large the drift is: cosine of separated increments beyond chance, and its share of the squared way."""

    cosine: Figure
    share: Figure
    negligible: bool


class Shrinkage(Record):
    """Share of the squared drift along the first weights, share of these lost per step; `alone`: without it no drift is found."""

    share: Figure
    rate: Figure
    alone: bool


class WithoutStart(Record, rename=_ENDS):
    """Whether drift is found by the checkpoints from that step on."""

    from_: int
    found: bool
    cosine: Figure
    p: PValues


class Verdict(Record):
    linear: bool
    sentence: str
    level: float | UnsetType = UNSET
    p: PValues | UnsetType = UNSET
    effect: Effect | UnsetType = UNSET
    holds_up_to_beta1: float | UnsetType = UNSET
    shrinkage: Shrinkage | UnsetType = UNSET
    without_start: WithoutStart | UnsetType = UNSET
    provisional: bool | UnsetType = UNSET


class Statistics(Record):
    """All that follows from the Gram matrix [T, T] of the deltas."""

    drift: Drift
    persistence: PersistenceFigures
    rank1: RankOne
    skill: HeldOutSkill
    regime: Regime
    gram: list[list[float]]


class Cost(Record):
    """Of weights, seconds of the scan and of what came after it, and bytes; of outputs, seconds in all."""

    scan_seconds: float | UnsetType = UNSET
    statistics_seconds: float | UnsetType = UNSET
    bytes_read: int | UnsetType = UNSET
    seconds: float | UnsetType = UNSET


class Summary(Record):
    """What the summaries of all kinds share."""

    driftline: str
    kind: str
    run: str
    steps: list[int]
    clock: str
    clock_values: list[float]
    filter: str
    parameters: Counts
    r2: R2
    null_r2: NullR2
    r2_histogram: Histograms
    drift: Drift
    optimizer: Optimizer
    persistence: PersistenceFigures
    rank1: RankOne
    skill: HeldOutSkill
    regime: Regime
    gram: list[list[float]]
    left_out: dict[str, str]
    skipped: dict[str, str]
    verdict: Verdict
    counted: str | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET
    jumps: Jumped | UnsetType = UNSET
    learning_rate: LearningRate | UnsetType = UNSET
    cost: Cost | UnsetType = UNSET

    @classmethod
    def what(cls) -> str:
        """The name of the kind."""
        return next(name for name, kind in KINDS.items() if kind is cls)

    @property
    def unit(self) -> str:
        """What the counts are of."""
        return "parameters" if self.counted is UNSET else self.counted


class Rounding(Record):
    dtypes: list[str]
    unchanged_share: float
    unchanged_share_per_interval: list[float]
    distinct_values: dict[str, int]


class Sampled(Record):
    """Of a run that is watched: what of it the figures are of."""

    weights: int
    of: int
    sketch: int
    gram_standard_error: float
    sentence: str
    checkpoints: int | UnsetType = UNSET
    of_checkpoints: int | UnsetType = UNSET


class Line(Record):
    """What `watch` told of one checkpoint; below three of them only the first three."""

    step: int
    checkpoints: int | UnsetType = UNSET
    update_norm: Figure | UnsetType = UNSET
    skill_ahead: Figure | UnsetType = UNSET
    increment_cosine: Figure | UnsetType = UNSET
    null_increment_cosine: Figure | UnsetType = UNSET
    r2_median: Figure | UnsetType = UNSET
    null_r2_median: Figure | UnsetType = UNSET
    verdict: str | UnsetType = UNSET


class Warned(Record):
    kind: str
    since: int
    at: int
    sentence: str


class Watched(Record):
    """How a run that is watched has been going."""

    checkpoints: list[Line]
    warnings: list[Warned]
    skipped: int


class WeightsSummary(Summary, kw_only=True):
    """Of `analyze`, and of `watch`, which has the last two."""

    rounding: Rounding
    sampled: Sampled | UnsetType = UNSET
    watch: Watched | UnsetType = UNSET


class PaperFilter(Record):
    """R² of the tokens that the paper keeps, beside walks that pass the same filter."""

    threshold: float
    kept: int
    kept_share: float
    null_kept_share: float
    r2: R2
    null_r2: R2
    r2_histogram: Histograms


class LogprobsSummary(Summary, kw_only=True):
    rollouts: int
    paper_filter: PaperFilter
    mean_logprob: list[float]


class SampledUnits(Record):
    """Which layers, positions and units were looked into."""

    layers: list[int]
    positions: int
    units: int
    seed: int


class SourceOfChange(Record):
    """Of one layer: standard deviations of the parts of its change, and their histograms within a reach."""

    layer: str
    sd: dict[str, float]
    sd_total: float
    unexplained: float
    histogram: dict[str, float | list[int]]

    @property
    def reach(self) -> float:
        """The histograms go from -reach to reach."""
        reach = self.histogram["reach"]
        return float("nan") if isinstance(reach, list) else reach

    def counts(self, part: str) -> list[int]:
        """The histogram of a part."""
        counts = self.histogram[part]
        return counts if isinstance(counts, list) else []


class ActivationsSummary(Summary, kw_only=True):
    rollouts: int
    sampling: SampledUnits
    blocks: dict[str, R2]
    source_of_change: list[SourceOfChange]


KINDS: dict[str, type[Summary]]
KINDS = {"weights": WeightsSummary, "logprobs": LogprobsSummary, "activations": ActivationsSummary}


class _Kind(msgspec.Struct):
    kind: str


def read_summary(folder: Path) -> Summary:
    """The summary in a result of `analyze`, `watch`, `logprobs` or `activations`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path, what = folder / "summary.json", "analyze, logprobs or activations"
    try:
        kind = msgspec.json.decode(read_regular(path), type=_Kind).kind
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a folder that {what} wrote") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a summary of {what}: make it again") from error
    if kind not in KINDS:
        raise InputError(f"{path} is a summary of {kind!r}, which is unknown: make it again with {what}")
    return read_record(path, KINDS[kind], what=what)
