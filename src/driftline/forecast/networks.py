"""The networks of NExt: two hidden layers, trained by AdamW on the absolute error, in numpy.

What measures weights needs no torch, so the backward pass and the optimizer are written out here; tests compare both
with torch's. Initial weights are uniform within 1 / sqrt(inputs), as torch's are.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from driftline.progress import Advance, unseen

Array = np.ndarray

_BETAS, _EPSILON, _DECAY = (0.9, 0.999), 1e-8, 0.01  # of AdamW
_LAST_RATE = 0.1  # of the first: a cosine goes there


@dataclass(frozen=True)
class Training:
    """How a network is trained: full batches, `epochs` of them, at a rate that falls by a cosine."""

    width: int = 256
    epochs: int = 200
    learning_rate: float = 1e-3
    seed: int = 0


class Network:
    """Maps [N, inputs] to [N, outputs], float32; a ReLU follows each of the two hidden layers."""

    def __init__(self, inputs: int, outputs: int, training: Training) -> None:
        self.training = training
        sizes = list(itertools.pairwise((inputs, training.width, training.width, outputs)))
        self.parameters = np.empty(sum(a * b + b for a, b in sizes), np.float32)
        self.gradient = np.zeros_like(self.parameters)
        self.layers, self._gradients = _views(self.parameters, sizes), _views(self.gradient, sizes)
        rng = np.random.default_rng(training.seed)
        for weight, bias in self.layers:
            bound = 1 / math.sqrt(weight.shape[0])
            weight[:] = rng.uniform(-bound, bound, weight.shape)
            bias[:] = rng.uniform(-bound, bound, bias.shape)

    def __call__(self, x: Array) -> Array:
        return self._forward(x)[-1]

    def fit(self, x: Array, target: Array, tick: Advance = unseen) -> float:
        """Train it; gives the mean absolute error in the last epoch, and tells `tick` of every epoch."""
        first, second = np.zeros_like(self.parameters), np.zeros_like(self.parameters)
        loss, epochs = math.nan, self.training.epochs
        for epoch in range(epochs):
            share = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * epoch / epochs)) / 2
            loss = self.differentiate(x, target)
            adamw(self.parameters, self.gradient, first, second, epoch + 1, self.training.learning_rate * share)
            tick(1)
        return loss

    def differentiate(self, x: Array, target: Array) -> float:
        """The mean absolute error; its gradient goes into `gradient`."""
        passed = self._forward(x)
        miss = passed[-1] - target
        back = np.sign(miss) / np.float32(miss.size)
        for place in range(len(self.layers) - 1, -1, -1):
            weight, bias = self._gradients[place]
            np.matmul(passed[place].T, back, out=weight)
            back.sum(0, out=bias)
            if place:
                back = (back @ self.layers[place][0].T) * (passed[place] > 0)
        return float(np.abs(miss).mean())

    def _forward(self, x: Array) -> list[Array]:
        """The input of every layer, and the output of the last."""
        passed = [x]
        for place, (weight, bias) in enumerate(self.layers):
            x = passed[-1] @ weight + bias
            passed.append(x if place == len(self.layers) - 1 else np.maximum(x, 0))
        return passed


def adamw(parameters: Array, gradient: Array, first: Array, second: Array, step: int, rate: float) -> None:
    """One step of AdamW (arXiv 1711.05101) in place; `first` and `second` are its running moments."""
    beta1, beta2 = _BETAS
    parameters *= 1 - rate * _DECAY
    first += (1 - beta1) * (gradient - first)
    second += (1 - beta2) * (gradient * gradient - second)
    parameters -= rate / (1 - beta1**step) * first / (np.sqrt(second / (1 - beta2**step)) + _EPSILON)


def _views(flat: Array, sizes: list[tuple[int, int]]) -> list[tuple[Array, Array]]:
    """(weight [inputs, outputs], bias [outputs]) of every layer, as views of one vector."""
    found, start = [], 0
    for a, b in sizes:
        found.append((flat[start : start + a * b].reshape(a, b), flat[start + a * b : start + a * b + b]))
        start += a * b + b
    return found
