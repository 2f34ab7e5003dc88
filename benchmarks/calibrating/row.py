"""One row of the table of calibration: how often something was said, of runs in which it should not be, or should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scipy.stats import beta

ROOM = 0.03  # by which the upper end of the interval may exceed what is promised


@dataclass(frozen=True)
class Row:
    """A share of simulated runs, and what is promised of it.

    Attributes:
        what: what is said of which runs.
        before: the share that was measured before the repair, as it was filed; "" where it was not.
        hits, runs: how many runs it was said of, of how many.
        at_most, at_least: the promise; false alarms have the first, power the second, coverage both.
        note: what else there is to say, such as a figure that is no share.
        fails: it is known that the promise is not kept; docs/limits.md says so.
    """

    what: str
    before: str
    hits: int
    runs: int
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    fails: bool = False

    @property
    def share(self) -> float:
        return self.hits / self.runs

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Clopper and Pearson's: exact whatever the share."""
        low = 0.0 if self.hits == 0 else float(beta.ppf(0.025, self.hits, self.runs - self.hits + 1))
        high = 1.0 if self.hits == self.runs else float(beta.ppf(0.975, self.hits + 1, self.runs - self.hits))
        return low, high

    @property
    def broken(self) -> bool:
        """Whether the promise is broken beyond chance: the whole interval lies outside."""
        low, high = self.interval
        above = self.at_most is not None and low > self.at_most
        return above or (self.at_least is not None and high < self.at_least)

    @property
    def holds(self) -> str:
        """`yes`, `no`, `cannot tell`, or `too few runs` where the interval is too wide to say so; "" of a row without a promise."""
        if self.at_most is None and self.at_least is None:
            return ""
        low, high = self.interval
        above = self.at_most is not None and self.share > self.at_most
        below = self.at_least is not None and self.share < self.at_least
        if above or below:
            return "no" if self.broken else "cannot tell"
        wide = self.at_most is not None and high > self.at_most + ROOM
        short = self.at_least is not None and low < self.at_least - 0.1
        return "too few runs" if wide or short else "yes"

    def cells(self) -> dict[str, Any]:
        """For `tables.Table`."""
        low, high = self.interval
        promise = [
            f"{word} {100 * value:g} %"
            for word, value in (("≥", self.at_least), ("≤", self.at_most))
            if value is not None
        ]
        return {
            "what": self.what,
            "before": self.before,
            "share": self.share,
            "interval": {"low": low, "high": high},
            "runs": str(self.runs),
            "promise": ", ".join(promise),
            "holds": self.holds,
            "note": self.note,
        }
