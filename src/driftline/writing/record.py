"""`driftline.json`: the recipe of a forecast model, enough to make the same bytes again.

docs/outputs.md defines every key.
"""

from __future__ import annotations

from pathlib import Path

from driftline.files.record import UNSET, Record, UnsetType, read_record
from driftline.forecast.forecast import Origin

MARK = "driftline.json"


class SourceFile(Record):
    """A file that was read: its size, and a hash of it, or what tells the version of a remote one."""

    step: int
    file: str
    bytes: int | UnsetType = UNSET
    blake3: str | UnsetType = UNSET
    commit: str | UnsetType = UNSET
    etag: str | UnsetType = UNSET
    fingerprint: str | UnsetType = UNSET


class Recipe(Origin, kw_only=True):
    """Of one model: how the forecast came about, and how it was made and stored."""

    steps: list[int]
    coefficients_per: str
    coefficients: dict[str, float | dict[str, float]]
    sources: list[SourceFile]
    keep: list[str]
    kept: list[str]
    copied: list[str]
    dtype: str
    written_dtype: str
    rounding: str
    seed: int
    shard_bytes: int
    rounding_loss: float
    carried: list[str] | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET

    @property
    def goal(self) -> float:
        """The step that the forecast is of, where it stops short of its target; or the target."""
        return self.target if self.reached is UNSET else self.reached


class Recipes(Record):
    """Of a folder of several models, each of which has its own."""

    driftline: str
    method: str
    steps: list[int]
    targets: list[float]


def read_recipe(model: Path) -> Recipe:
    """The recipe of a forecast model; raises `InputError` where there is none."""
    return read_record(model / MARK, Recipe, what="driftline extrapolate")
