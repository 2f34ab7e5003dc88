"""`auto` with rollouts: the forecast whose log-probs come nearest to those of a later checkpoint.

The run's last checkpoint is forecast from those before a cutoff, as far ahead as was asked for where the
run is long enough; every contender is written, run on a few hundred response tokens, and scored by

    skill = 1 - sum (forecast - truth)² / sum (last seen - truth)²    over the tokens' log-probs.

Nothing is forecast where drift is not told from chance, or where the lower end of the best skill (by
jackknife over rollouts) is not above 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from driftline import models
from driftline._version import __version__
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.files.output import scratch_folder
from driftline.forecast.choose import Choice
from driftline.forecast.extrapolators import method_named
from driftline.forecast.forecast import Forecast, Origin
from driftline.forecast.observations import Observations
from driftline.linearity.drift import drift_test
from driftline.linearity.student import student
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.logprobs import limits_of, tokenizer_of
from driftline.outputs.rollouts import Rollout, read_rollouts
from driftline.outputs.teacher_forcing import token_logprobs
from driftline.writing.storage import Storage
from driftline.writing.write import write

Array = np.ndarray

_TOKENS = 512  # of responses, spread over the file
_FEWEST_SEEN = 3
_FEWEST_ROLLOUTS = 3
_WINDOWS = (0.25, 0.5)  # of the checkpoints seen: where shorter windows of two-point start


@dataclass(frozen=True)
class Contender:
    """A method, and the row its window starts at."""

    method: str
    first: int = 0

    def label(self, steps: Array) -> str:
        return self.method + (f" from step {steps[self.first]}" if self.first else "")


@dataclass(frozen=True)
class _Trial:
    """A forecast of the last checkpoint from those up to `cutoff`, judged by log-probs of response tokens.

    Attributes:
        run: the checkpoints that may be used; observed: their Grams.
        starts: of each rollout among the tokens, [rollouts].
        truth: log-probs at the last checkpoint, [tokens].
        base: squared error of holding the checkpoint of `cutoff`, summed over each rollout, [rollouts].
    """

    run: Trajectory
    observed: Observations
    cutoff: int
    rollouts: list[Rollout]
    starts: Array
    truth: Array
    base: Array

    @property
    def seen_step(self) -> int:
        return int(self.observed.steps[self.cutoff])

    def skill(self, logprobs: Array) -> tuple[float, float]:
        """Skill of a forecast's log-probs [tokens], and its lower end."""
        return skill_with_low(_errors(logprobs, self.truth, self.starts), self.base)


def skill_with_low(error: Array, hold: Array) -> tuple[float, float]:
    """Skill of squared errors summed over rollouts [n], which are independent of each other, and its lower 95 % end.

    By jackknife; minus infinity below three rollouts.
    """
    n, skill = error.size, 1 - error.sum() / hold.sum()
    left = hold.sum() - hold
    if n < _FEWEST_ROLLOUTS or not (left > 0).all():
        return float(skill), -math.inf
    without = 1 - (error.sum() - error) / left
    spread = math.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return float(skill), float(skill - student(0.95, n - 1) * spread)


def choose(
    trajectory: Trajectory,
    observed: Observations,
    ahead: float,
    *,
    rollouts_file: Path,
    storage: Storage,
    out: Path,
) -> Choice:
    """The contender with the best skill in log-probs; hold where none beats holding.

    Args:
        observed: the run's Grams, over the checkpoints that may be used.
        ahead: how far the forecast is asked to go, in clock units.
        storage: how forecasts are stored; out: where the chosen one is to go; tried ones lie beside it for a while.

    Raises:
        InputError: too few checkpoints, or rollouts that cannot be used.
    """
    trial = _trial(trajectory, observed, ahead, rollouts_file)
    prefix = trial.run.only(observed.steps[: trial.cutoff + 1].tolist())
    found = {
        contender: trial.skill(_forecast_logprobs(prefix, trial, contender, storage, out))
        for contender in _contenders(trial.cutoff)
    }
    best = max(found, key=lambda contender: found[contender][0])
    return _judged(trial, found, best)


def _trial(trajectory: Trajectory, observed: Observations, ahead: float, rollouts_file: Path) -> _Trial:
    steps = observed.steps
    if steps.size <= _FEWEST_SEEN:
        raise InputError(
            f"{trajectory.name}: {steps.size} checkpoints: scoring forecasts by --rollouts needs {_FEWEST_SEEN + 1} or more, so name a --method, or save more checkpoints"
        )
    run = trajectory.only(steps.tolist())
    rollouts = _some(read_rollouts(rollouts_file, tokenizer_of(run), limits=limits_of(run)))
    cutoff = _cutoff(observed.clock, ahead)
    truth, held = (token_logprobs(load_checkpoint(run.checkpoints[row]), rollouts) for row in (-1, cutoff))
    starts = np.cumsum([0, *(len(rollout.response_ids) for rollout in rollouts[:-1])])
    base = _errors(held, truth, starts)
    if not base.sum() > 0:
        raise InputError(
            f"{rollouts_file}: no response token changes its log-prob between step {steps[cutoff]} and {steps[-1]}: sample other rollouts, or name a --method"
        )
    return _Trial(run, observed, cutoff, rollouts, starts, truth, base)


def _errors(logprobs: Array, truth: Array, starts: Array) -> Array:
    """Squared, and summed over each rollout."""
    return np.add.reduceat((logprobs - truth).astype(np.float64) ** 2, starts)


def _judged(trial: _Trial, found: dict[Contender, tuple[float, float]], best: Contender) -> Choice:
    """The best contender if it is reliably better than holding, and there is drift; hold otherwise.

    Args:
        found: skill of each, and its lower end.
    """
    observed, steps, clock = trial.observed, trial.observed.steps, trial.observed.clock
    skill, low = found[best]
    test = drift_test(observed.total, steps, clock, observed.beta1)
    tested = float(clock[-1] - clock[trial.cutoff])
    scores = {contender.label(steps): score for contender, (score, _) in found.items()}
    tokens = len(trial.truth)
    if not low > 0 or (test is not None and not test.found):
        why = (
            f"no forecast of step {steps[-1]} from step {trial.seen_step} came reliably nearer to its log-probs on {tokens} response "
            f"tokens than the checkpoint of step {trial.seen_step} itself (best: {best.label(steps)}, skill {skill:.2f})"
            if not low > 0
            else "drift is not told from chance in this run"
        )
        sentence = f"hold: {why}, so the model written is that of step {steps[-1]}, unchanged"
        return Choice("hold", 0.0, sentence, True, scores=scores)
    sentence = (
        f"{best.label(steps)}: its forecast of step {steps[-1]} from step {trial.seen_step} came nearest to that checkpoint's "
        f"log-probs on {tokens} response tokens (skill {skill:.2f}, {tested:g} steps ahead)"
    )
    # a window is a share of what is seen, and now the whole run is
    start = round(best.first / trial.cutoff * (steps.size - 1))
    return Choice(best.method, tested, sentence, False, int(steps[start]) if start else None, scores)


def _some(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Rollouts spread over the file, with some hundred response tokens in all."""
    share = min(1.0, _TOKENS / sum(len(rollout.response_ids) for rollout in rollouts))
    wanted = max(round(share * len(rollouts)), 1)
    return [rollouts[i] for i in np.unique(np.linspace(0, len(rollouts) - 1, wanted).round().astype(int))]


def _cutoff(clock: Array, ahead: float) -> int:
    """The row from which the last checkpoint lies as far ahead as asked, with enough seen before it."""
    wanted = int(np.argmin(np.abs(clock[-1] - clock - ahead)))
    return int(np.clip(wanted, _FEWEST_SEEN - 1, clock.size - 2))


def _contenders(cutoff: int) -> list[Contender]:
    windows = {round(share * cutoff) for share in _WINDOWS} - {0, cutoff}
    return [
        *(Contender("two-point", first) for first in (0, *sorted(windows))),
        *(Contender(method) for method in ("anchored", "damped", "blup")),
    ]


def _forecast_logprobs(prefix: Trajectory, trial: _Trial, contender: Contender, storage: Storage, out: Path) -> Array:
    """The log-probs [tokens] of the contender's forecast of the last checkpoint, from the run's `prefix`."""
    observed = trial.observed
    seen = observed.only(range(contender.first, trial.cutoff + 1))
    method = method_named(contender.method, beta1=observed.beta1)
    a = np.zeros(trial.cutoff + 1)
    a[contender.first :] = method.extrapolate(seen.clock, seen.total, float(observed.clock[-1]))
    target, used = float(observed.steps[-1]), list(prefix.steps)
    origin = Origin(driftline=__version__, target=target, method=contender.method, observed=used)
    with scratch_folder(out) as folder:
        write(prefix, {folder: Forecast({tensor.name: a for tensor in prefix}, origin)}, storage)
        return token_logprobs(models.load_model(folder), trial.rollouts)
