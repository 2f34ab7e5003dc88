"""`backtest.json`: how well each method would have forecast the run's own later checkpoints.

The keys are a contract; docs/outputs.md defines each with its unit.
"""

from __future__ import annotations

from driftline.files.record import UNSET, Figure, Record, UnsetType
from driftline.linearity.summary import LearningRate, Optimizer, PersistenceFigures

MARK = "backtest.json"


class PooledSkill(Record):
    """Skill of one method so far ahead, over all cutoffs, with its lower 95 % end."""

    horizon: float
    skill: Figure
    low: Figure
    cutoffs: int


class Calibration(Record):
    """How honest blup's error bars are, as its model has them, and scaled by the ratios that the run has verified."""

    forecasts: int
    mean_ratio: Figure
    inside_95: Figure
    scaled: int | UnsetType = UNSET
    scaled_inside_90: Figure | UnsetType = UNSET
    honest: bool | UnsetType = UNSET


class ForecastSkill(Record):
    """One forecast of one observed checkpoint."""

    method: str
    cutoff: int
    horizon: int
    skill: Figure
    relative_error: Figure
    cosine: Figure


class BacktestCost(Record):
    seconds_after_the_scan: float


class BacktestRecord(Record, kw_only=True):
    """What `backtest.json` holds."""

    driftline: str
    run: str
    clock: str
    recommended_horizon: float
    best_method: str
    sentence: str
    steps: list[int]
    drift_found: bool
    horizons: dict[str, float]
    pooled: dict[str, list[PooledSkill]]
    persistence: PersistenceFigures
    optimizer: Optimizer | UnsetType = UNSET
    learning_rate: LearningRate | UnsetType = UNSET
    schedule_end: int | UnsetType = UNSET
    calibration: Calibration
    skill: list[ForecastSkill]
    cost: BacktestCost
