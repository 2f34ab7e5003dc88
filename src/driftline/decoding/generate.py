"""Samples for a file of prompts, written as they come: the engine of `driftline generate`.

Each row of the output is {"index", "sample", "prompt", "response", "response_ids", "finish_reason"}, in
order of index (row of the prompts file) and sample. A file cut short is continued by the same call: a torn
last line is dropped, rows that are there are kept. What made the file is kept beside it, in
`FILE.settings.json`; a call with other settings is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from driftline.decoding.backends.decoder import Decoder, Job, Response
from driftline.decoding.backends.endpoint import served
from driftline.decoding.backends.opening import must_be_positive, open_decoder
from driftline.decoding.settings import GenerationSettings, must_be_few
from driftline.errors import InputError, first_line
from driftline.files.atomic import replace_text, sync
from driftline.files.fingerprint import digest_of, weights_of
from driftline.files.json import json_text, parsed, read_json
from driftline.files.lines import Row, continued, whole_lines
from driftline.files.regular import IRREGULAR, open_regular
from driftline.progress import Advance, unseen
from driftline.prompts import Rows, read_rows


@dataclass(frozen=True)
class GenerateReport:
    """What a call of `generate` did."""

    rows: int  # in the file now
    new_rows: int
    new_tokens: int
    seconds: float
    acceptance: float  # share of drafts kept; not a number for a single model
    tokens_per_early_pass: float


def generate(
    prompts: Path,
    out: Path,
    settings: GenerationSettings,
    *,
    batch_size: int | None = None,
    overwrite: bool = False,
    advance: Advance = unseen,
    decoder: Decoder | None = None,
    read: Rows | None = None,
) -> GenerateReport:
    """Sample every prompt of a file; continues a file that the same settings began.

    Args:
        batch_size: completions decoded at once, by default what suits the backend; changes the speed, not the
            outcome (up to rounding).
        advance: called with the number of rows that were added, or found there.
        decoder: that of `settings`, if it is open already.
        read: the rows of `prompts`, if they are read already: a pipe cannot be read twice.

    Raises:
        InputError: prompts, settings or models are wrong, or `out` was made otherwise.
    """
    must_be_positive(batch_size)
    rows = read_rows(prompts) if read is None else read
    must_be_few(len(rows), settings.samples)
    record = {**settings.record(), "models": _fingerprint(settings), "prompts": rows.digest}
    present = _present(out, record, settings.samples, len(rows), overwrite=overwrite)
    advance(present)
    jobs = [(index, sample) for index in range(len(rows)) for sample in range(settings.samples)][present:]
    if not jobs:
        return GenerateReport(present, 0, 0, 0.0, float("nan"), float("nan"))
    started, tokens = time.perf_counter(), 0
    with open_decoder(settings, batch_size) if decoder is None else nullcontext(decoder) as model:
        if more := served(settings.backend):
            record |= more
            _present(out, record, settings.samples, len(rows), overwrite=overwrite)
        encoded = [model.prompt(row, f"{prompts}, row {index}") for index, row in enumerate(rows)]
        asked = [Job(index, sample, encoded[index]) for index, sample in jobs]
        waiting = iter(asked)
        if not present:
            _begin(out, record)
        with _kept(out), continued(out) as file:
            for responses in model.complete(asked, settings):
                drawn = zip(islice(waiting, len(responses)), responses, strict=True)
                file.append(_row(job, response, ids=settings.keep_prompt_ids) for job, response in drawn)
                tokens += sum(response.tokens for response in responses)
                advance(len(responses))
        drafts = model.acceptance
    return GenerateReport(
        present + len(jobs),
        len(jobs),
        tokens,
        time.perf_counter() - started,
        float("nan") if drafts is None else drafts.rate,
        float("nan") if drafts is None else drafts.tokens_per_early_pass,
    )


def _row(job: Job, response: Response, *, ids: bool) -> Row:
    """A line of the output; with the prompt's token ids, if so asked and they are known."""
    prompt = job.prompt
    return {
        "index": job.index,
        "sample": job.sample,
        **({"prompt": prompt.text} if prompt.messages is None else {"messages": prompt.messages}),
        **({"prompt_ids": prompt.ids} if ids and prompt.ids else {}),
        "response": response.text,
        "response_ids": response.ids,
        **({"tokens": response.tokens} if response.ids is None else {}),
        "finish_reason": response.finish_reason,
    }


def settings_file(out: Path) -> Path:
    """Where the settings that made `out` are kept."""
    return out.with_name(out.name + ".settings.json")


def _present(out: Path, record: dict[str, Any], samples: int, prompts: int, *, overwrite: bool) -> int:
    """Whole rows that `out` has already."""
    beside = settings_file(out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: give a file")
    if out.exists() and not out.is_file():  # such as a pipe
        raise InputError(f"--out {out} is {IRREGULAR}, and rows are appended to it: give a file")
    if not out.exists() or not out.stat().st_size:
        return 0
    if not beside.exists():
        raise InputError(f"--out {out} exists and driftline generate did not write it: choose another file")
    if overwrite:
        return 0
    made_with = _made_with(beside)
    changed = [name for name in record if made_with.get(name) != record[name]]
    if changed:
        name = changed[0]
        raise InputError(
            f"--out {out} was made with other settings ({name} {made_with.get(name)!r}, now {record[name]!r}): "
            "choose another file, or add --overwrite"
        )
    return _complete_rows(out, samples, prompts)


@contextmanager
def _kept(out: Path) -> Iterator[None]:
    """What fails before its first row leaves no file."""
    try:
        yield
    except BaseException:
        if not out.stat().st_size:
            out.unlink()
            settings_file(out).unlink(missing_ok=True)
        raise


def _made_with(beside: Path) -> dict[str, Any]:
    """The settings that are kept beside the rows."""
    remedy = "add --overwrite to begin again, or choose another file"
    try:
        found = read_json(beside)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{beside}, which says how the rows were made, is damaged ({reason}): {remedy}") from error
    if not isinstance(found, dict):
        raise InputError(f"{beside}, which says how the rows were made, is damaged (no object): {remedy}")
    return found


def _begin(out: Path, record: dict[str, Any]) -> None:
    """An empty file with its settings beside it.

    Emptied first: rows are never beside settings that did not make them, and a call that finds none begins again.
    """
    beside = settings_file(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        open_regular(out, "wb").close()
        sync(out)
        replace_text(beside, json_text(record))
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): choose another file") from error


def _complete_rows(out: Path, samples: int, prompts: int) -> int:
    """The number of whole rows, which must be the first ones."""
    rows = whole_lines(out)
    for place, line in enumerate(rows):
        try:
            row = parsed(line)
            found = (row["index"], row["sample"])
        except (ValueError, KeyError, TypeError):
            found = None
        if found != divmod(place, samples) or place >= prompts * samples:
            raise InputError(f"--out {out}, line {place + 1}, is damaged: add --overwrite to begin again")
    return len(rows)


def _fingerprint(settings: GenerationSettings) -> dict[str, str]:
    """Sizes and times of the models' weight files, hashed: other weights under the same name are noticed."""
    return {source: digest_of(files) for source, files in weights_of(settings.sources).items()}
