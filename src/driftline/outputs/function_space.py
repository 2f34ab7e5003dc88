"""`auto` with rollouts: the forecast whose log-probs come nearest to those of a later checkpoint.

The run's last checkpoint is forecast from those before a cutoff, as far ahead as was asked for where the
run is long enough; every candidate is written, run on a few hundred response tokens, and scored by

    skill = 1 - sum (forecast - truth)² / sum (last seen - truth)²    over the tokens' log-probs.

Nothing is forecast where drift is not told from chance, or where the lower end of the best skill (by
jackknife over rollouts) is not above 0.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from driftline import models
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.forecast.backtest import skill_with_low
from driftline.forecast.choose import Choice
from driftline.forecast.extrapolators import method_named
from driftline.forecast.observations import Observations
from driftline.linearity.drift import drift_test
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.logprobs import tokenizer_of
from driftline.outputs.rollouts import Rollout, read_rollouts
from driftline.outputs.teacher_forcing import token_logprobs
from driftline.writing.write import Forecast, Settings, write

Array = np.ndarray

_TOKENS = 512  # of responses, spread over the file
_FEWEST_SEEN = 3
_WINDOWS = (0.25, 0.5)  # of the checkpoints seen: where shorter windows of two-point start


@dataclass(frozen=True)
class Candidate:
    """A method, and the row its window starts at."""

    method: str
    first: int = 0

    def label(self, steps: Array) -> str:
        return self.method + (f" from step {steps[self.first]}" if self.first else "")


def choose(
    trajectory: Trajectory, observed: Observations, rollouts_file: Path, ahead: float, settings: Settings, scratch: Path
) -> Choice:
    """The candidate with the best skill in log-probs; hold where none beats it.

    Args:
        observed: the run's Grams, over the checkpoints that may be used.
        ahead: how far the forecast is asked to go, in clock units.
        scratch: folder in which one forecast at a time is written.

    Raises:
        InputError: too few checkpoints, or rollouts that cannot be used.
    """
    steps, clock = observed.steps, observed.clock
    if steps.size <= _FEWEST_SEEN:
        raise InputError(
            f"{trajectory.name}: {steps.size} checkpoints: scoring forecasts by --rollouts needs {_FEWEST_SEEN + 1} or more, so name a --method, or save more checkpoints"
        )
    part = trajectory.only(steps.tolist())
    last = part.checkpoints[-1].model
    rollouts = _some(read_rollouts(rollouts_file, tokenizer_of(part), longest=models.context_of(last)))
    cutoff = _cutoff(clock, ahead)
    truth, held = (token_logprobs(load_checkpoint(part.checkpoints[row]), rollouts) for row in (-1, cutoff))
    starts = np.cumsum([0, *(len(rollout.response_ids) for rollout in rollouts[:-1])])

    def errors(values: Array) -> Array:
        """Summed over each rollout."""
        return np.add.reduceat((values - truth).astype(np.float64) ** 2, starts)

    base = errors(held)
    if not base.sum() > 0:
        raise InputError(
            f"{rollouts_file}: no response token changes its log-prob between step {steps[cutoff]} and {steps[-1]}: sample other rollouts, or name a --method"
        )
    prefix = part.only(steps[: cutoff + 1].tolist())
    skills, lows = {}, {}
    for candidate in _candidates(cutoff):
        values = _forecast_logprobs(prefix, observed, candidate, cutoff, rollouts, settings, scratch)
        skills[candidate], lows[candidate] = skill_with_low(errors(values), base)
    best = max(skills, key=lambda candidate: skills[candidate])
    test = drift_test(observed.total, steps, clock, observed.beta1)
    tested = float(clock[-1] - clock[cutoff])
    scores = {candidate.label(steps): skill for candidate, skill in skills.items()}
    tokens = len(truth)
    if not lows[best] > 0 or (test is not None and not test.found):
        why = (
            f"no forecast of step {steps[-1]} from step {steps[cutoff]} came reliably nearer to its log-probs on {tokens} response "
            f"tokens than the checkpoint of step {steps[cutoff]} itself (best: {best.label(steps)}, skill {skills[best]:.2f})"
            if not lows[best] > 0
            else "drift is not told from chance in this run"
        )
        sentence = f"hold: {why}, so the model written is that of step {steps[-1]}, unchanged"
        return Choice("hold", 0.0, sentence, True, scores=scores)
    sentence = (
        f"{best.label(steps)}: its forecast of step {steps[-1]} from step {steps[cutoff]} came nearest to that checkpoint's "
        f"log-probs on {tokens} response tokens (skill {skills[best]:.2f}, {tested:g} steps ahead)"
    )
    # a window is a share of what is seen, and now the whole run is
    start = round(best.first / cutoff * (steps.size - 1))
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


def _candidates(cutoff: int) -> list[Candidate]:
    windows = {round(share * cutoff) for share in _WINDOWS} - {0, cutoff}
    return [
        *(Candidate("two-point", first) for first in (0, *sorted(windows))),
        *(Candidate(method) for method in ("anchored", "damped", "blup")),
    ]


def _forecast_logprobs(
    prefix: Trajectory,
    observed: Observations,
    candidate: Candidate,
    cutoff: int,
    rollouts: Sequence[Rollout],
    settings: Settings,
    scratch: Path,
) -> Array:
    rows = range(candidate.first, cutoff + 1)
    seen = observed.only(rows)
    method = method_named(candidate.method, beta1=observed.beta1)
    a = np.zeros(cutoff + 1)
    a[candidate.first :] = method.extrapolate(seen.clock, seen.total, float(observed.clock[-1]))
    folder = Path(tempfile.mkdtemp(prefix=".driftline-", dir=scratch))
    try:
        coefficients = {tensor.name: a for tensor in prefix}
        recipe = {"target": float(observed.steps[-1]), "method": candidate.method}
        write(prefix, [Forecast(folder, coefficients, recipe)], settings)
        return token_logprobs(models.load_model(folder), rollouts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
