"""Weight decay: what of a run's movement lies along the weights that it began with.

Decay pulls every weight towards zero by a part of itself. That is drift, and no signal: on gradients of pure noise the
expected weights are c_s W_0 with a falling factor c_s for all tensors of one group of the optimizer. So of each tensor
that shrinks along its own first weights the part along them is left out before drift is tested: whichever tensors are
decayed, embeddings and norms among them or not, all of the decay is in these parts. W_0 was there before the
noise, so that what is left of a driftless walk is one; and a walk's products along W_0 are as likely with the other
sign, so that leaving out the shrinking ones alone changes no share of false alarms. Growth along W_0 is no decay,
and stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from driftline.linearity.statistics import drift_and_noise

Array = np.ndarray


@dataclass
class Shrunk:
    """What the tensors that shrink add up to, T checkpoints.

    Attributes:
        known: whether the first weights of any tensor are; those of bare adapters are not.
        gram: Gram [T, T] of the parts of the deltas along the first weights.
        lost: of each tensor that shrinks, the share of its first weights that is lost by the end, and how many they are.
        tensors: of each tensor whose first weights are known, the products [T] of its deltas with them, and their square.
    """

    known: bool = False
    gram: Array | float = 0.0
    lost: list[tuple[float, int]] = field(default_factory=list)
    tensors: list[tuple[Array, float]] = field(default_factory=list)

    def add(self, along: Array, square: float, size: int) -> None:
        """One tensor, of so many weights; see `part_of`."""
        self.known |= square > 0
        self.gram = self.gram + part_of(along, square)
        if square > 0:
            self.tensors.append((along, square))
        if square > 0 and along[-1] < 0:
            self.lost.append((float(-along[-1] / square), size))

    def until(self, count: int) -> Array | float:
        """The Gram as it was when there were only the first `count` checkpoints, some other tensors shrinking perhaps."""
        return sum((part_of(along[:count], square) for along, square in self.tensors), 0.0)

    def only(self, rows: Array) -> Shrunk:
        """What `until` is of, of some of the checkpoints."""
        return Shrunk(self.known, tensors=[(along[rows], square) for along, square in self.tensors])

    def rate(self, steps: int) -> float:
        """Share of the first weights lost per step, of a run of so many: the median over the weights of what shrinks.

        Tensors that are not decayed, norms for one, have few weights, however long they are.
        """
        if not self.lost:
            return 0.0
        shares, sizes = np.array(sorted(self.lost)).T
        return float(shares[np.searchsorted(sizes.cumsum(), sizes.sum() / 2)] / steps)


def part_of(along: Array, square: float) -> Array:
    """Gram [T, T] of the parts of one tensor's deltas along its first weights; zero where it does not shrink.

    Args:
        along, square: products [T] of the deltas with the first weights, and the square of these; 0 where not known.
    """
    shrinks = square > 0 and along[-1] < 0
    return np.outer(along, along) / square if shrinks else np.zeros((along.size, along.size))


def share_of_drift(part: Array, gram: Array, clock: Array, pairs: tuple[Array, Array]) -> float | None:
    """Squared drift that is in `part` [T, T] over that in the whole Gram, by separated increments; None where there is none."""
    whole = drift_and_noise(gram, clock, pairs)[0]
    if not whole > 0:
        return None
    return float(np.clip((drift_and_noise(part, clock, pairs)[0] / whole) ** 2, 0, 1))
