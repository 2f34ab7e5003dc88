"""Candidates scored: their samples drawn wherever an engine has it done, and what these say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import asdict

from driftline.decoding.backends.decoder import Decoder
from driftline.decoding.settings import GenerationSettings
from driftline.engines import Engine
from driftline.evaluation.candidates import Candidate
from driftline.evaluation.control import compare_with_late, controls
from driftline.evaluation.records import UNSET, Control, Scored
from driftline.evaluation.samples import Samples, figures, right
from driftline.evaluation.tasks import Task
from driftline.files.lines import Row
from driftline.progress import Advance, StartStage

Array = np.ndarray


@dataclass(frozen=True)
class Scorer:
    """How samples are drawn, whichever machine draws them: those of each model into its own file of `work`."""

    work: Path
    task: Task
    settings: GenerationSettings

    def samples(self, name: str, settings: GenerationSettings | None = None) -> Samples:
        return Samples(self.work / f"{name}.jsonl", self.task, settings or self.settings)

    def score(self, asked: tuple[Candidate, int], advance: Advance) -> list[Row]:
        """Samples of the first so many problems by a candidate."""
        candidate, problems = asked
        with candidate.source.open() as decoder:
            return self.samples(candidate.name).draw(decoder, problems, advance=advance)

    def control(self, asked: tuple[Candidate, Candidate, list[Row], int], advance: Advance) -> Control:
        """The best of so many candidates beside the late model, whose samples are drawn already."""
        best, late, rows, tried = asked

        def draw(arm: str, decoder: Decoder, settings: GenerationSettings) -> list[Row]:
            samples = self.samples(late.name if arm == "late" else arm, settings)
            return samples.draw(decoder, len(self.task.problems), advance=advance)

        with best.source.open() as forecast, late.source.open() as last:
            named = f"the {best.name}", f"the checkpoint of step {late.step}"
            return compare_with_late(draw, named, forecast, last, rows, self.task, self.settings, tried=tried)[1]

    def missing_controls(self) -> int:
        """Samples that `control` has still to draw."""
        problems = len(self.task.problems)
        return sum(self.samples(arm, settings).missing(problems) for arm, settings in controls(self.settings).items())


class ScoredCandidates:
    """The samples of every model of one sweep."""

    def __init__(self, scorer: Scorer, engine: Engine, progress: StartStage) -> None:
        self._scorer, self._engine, self._progress = scorer, engine, progress
        self._rows: dict[str, list[Row]] = {}

    def score(self, candidates: Sequence[Candidate], problems: int) -> None:
        """Have their samples of the first `problems`; a model is opened only if some of its are missing."""
        missing = {c.name: self._scorer.samples(c.name).missing(problems) for c in candidates}
        asked = [(c, problems) for c in candidates if missing[c.name]]
        for c in candidates:
            if not missing[c.name]:
                self._rows[c.name] = self._scorer.samples(c.name).rows(problems)
        drawn = self._engine.map_models(
            self._scorer.score, asked, lambda item: self._progress(item[0].name, missing[item[0].name])
        )
        for (candidate, _), rows in drawn:
            self._rows[candidate.name] = rows

    def control(self, best: Candidate, late: Candidate, tried: int) -> Control:
        """The best of so many candidates beside the late model, whose samples are drawn already."""
        total = self._scorer.missing_controls()
        asked = [(best, late, self._rows[best.name], tried)]
        drawn = self._engine.map_models(self._scorer.control, asked, lambda _: self._progress("controls", total))
        ((_, record),) = drawn
        return record

    def mean(self, candidate: Candidate) -> float:
        """Mean share of right samples of the problems that it has seen."""
        return float(right(self._rows[candidate.name], self._scorer.settings.samples).mean(1).mean())

    def record(self, candidate: Candidate) -> Scored:
        rows, samples = self._rows[candidate.name], self._scorer.settings.samples
        return Scored(
            kind=candidate.kind,
            step=candidate.step,
            folder=UNSET if candidate.folder is None else str(candidate.folder),
            problems=len(rows) // samples,
            **asdict(figures(rows, samples)),
        )
