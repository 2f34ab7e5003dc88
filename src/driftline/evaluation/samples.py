"""Scored samples of one model on a task, in a file that grows: what makes evaluations resumable.

Each row is {"index", "sample", "response", "response_ids", "finish_reason", "gold", "score"}, in order of
index (of the problem) and sample. A sample depends on its problem, its number and the settings only, so that
more problems, or the rest after a stop, are simply appended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from driftline.decoding.backends.decoder import Decoder, Job, Response
from driftline.decoding.settings import GenerationSettings
from driftline.errors import in_one_sentence
from driftline.evaluation.metrics import summarize
from driftline.evaluation.records import Figures
from driftline.evaluation.tasks import Task
from driftline.files.json import parsed
from driftline.files.lines import Row, continued, whole_lines
from driftline.files.work import Work
from driftline.progress import Advance, unseen

Array = np.ndarray


@dataclass(frozen=True)
class Samples:
    """The samples of one model, drawn by `settings`, in `file`."""

    file: Path
    task: Task
    settings: GenerationSettings

    def rows(self, problems: int) -> list[Row]:
        """Those of the first `problems`; fewer, if not all of them are drawn yet.

        Raises:
            InputError: a line of the file is damaged.
        """
        rows: list[Row] = []
        for number, line in enumerate(whole_lines(self.file)[: problems * self.settings.samples], 1):
            with in_one_sentence(
                f"{self.file}, line {number}, is damaged", "remove the file to draw its samples again"
            ):
                row = _checked(parsed(line))
            if (row["index"], row["sample"]) != divmod(len(rows), self.settings.samples):
                break  # a worker that was given up for lost wrote on beside the next
            rows.append(row)
        return rows

    def missing(self, problems: int) -> int:
        """How many are still to be drawn."""
        return problems * self.settings.samples - len(self.rows(problems))

    def draw(self, decoder: Decoder, problems: int, *, advance: Advance = unseen) -> list[Row]:
        """The samples of the first `problems`, drawing those that are missing.

        Raises:
            InputError: a prompt does not fit the model, or what the verifier needs is not installed.
        """
        rows = self.rows(problems)
        jobs = [(index, sample) for index in range(problems) for sample in range(self.settings.samples)][len(rows) :]
        prompts = {
            index: decoder.prompt(
                self.task.problems[index].asked(chats=decoder.chats), f"{self.task.name}, problem {index}"
            )
            for index in dict(jobs)
        }
        asked = [Job(index, sample, prompts[index]) for index, sample in jobs]
        waiting = iter(asked)
        with continued(self.file) as file:
            for responses in decoder.complete(asked, self.settings):
                answered = zip(islice(waiting, len(responses)), responses, strict=True)
                drawn = [self._row(job, response) for job, response in answered]
                file.append(drawn)
                rows += drawn
                advance(len(drawn))
        return rows

    def _row(self, job: Job, response: Response) -> Row:
        return {
            "index": job.index,
            "sample": job.sample,
            "response": response.text,
            "response_ids": response.ids,
            **({"tokens": response.tokens} if response.ids is None else {}),
            "finish_reason": response.finish_reason,
            "gold": self.task.problems[job.index].answer,
            "score": self.task.score(response.text, job.index),
        }


def _checked(row: Any) -> Row:
    """A row as `_row` makes them.

    Raises:
        Exception: something is not there, or is something else.
    """
    ids = row["response_ids"]
    length = len(ids) if ids is not None else row["tokens"]
    kinds: dict[str, Any] = {"index": int, "sample": int, "response": str, "finish_reason": str, "score": (int, float)}
    if not isinstance(length, int) or not all(isinstance(row[key], kind) for key, kind in kinds.items()):
        raise ValueError("no row of samples")
    return dict(row)


@contextmanager
def resumable(out: Path, request: dict[str, Any]) -> Iterator[Work]:
    """A hidden folder beside `out` for the samples of a request, to be removed when the result is written.

    It stays where the block is stopped, for the same request to go on from; not if no sample was drawn.
    """
    work = Work(out, request)
    try:
        yield work
    except BaseException:
        if not any(file.stat().st_size for file in work.folder.glob("*.jsonl")):
            work.remove()
        raise


def right(rows: Sequence[Row], samples: int) -> Array:
    """Whether each sample is right, bool [P, n]."""
    return np.array([row["score"] == 1 for row in rows]).reshape(-1, samples)


def figures(rows: Sequence[Row], samples: int, *, seed: int = 0) -> Figures:
    """What rows say of a model; the mean score counts what a verifier half grants."""
    lengths = [row["tokens"] if row["response_ids"] is None else len(row["response_ids"]) for row in rows]
    truncated = [row["finish_reason"] == "length" for row in rows]
    scores = [row["score"] for row in rows]
    by_problem = (np.array(values).reshape(-1, samples) for values in (lengths, truncated, scores))
    return summarize(right(rows, samples), *by_problem, seed=seed)
