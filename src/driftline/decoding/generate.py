"""Samples for a file of prompts, written as they come: the engine of `driftline generate`.

Each row of the output is {"index", "sample", "prompt", "response", "response_ids", "finish_reason"}, in
order of index (row of the prompts file) and sample. A file cut short is continued by the same call: a torn
last line is dropped, rows that are there are kept. What made the file is kept beside it, in
`FILE.settings.json`; a call with other settings is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from driftline.decoding.sampler import Completion, Sampler, row_seed
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.sources import sampler_of
from driftline.errors import InputError
from driftline.files.atomic import replace_text, sync
from driftline.files.fingerprint import digest, digest_of, weights_of
from driftline.files.json import json_text
from driftline.files.lines import Row, continued, whole_lines
from driftline.progress import Advance, unseen
from driftline.prompts import Prompt, encode, read_rows


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
    batch_size: int = 16,
    overwrite: bool = False,
    advance: Advance = unseen,
    sampler: Sampler | None = None,
) -> GenerateReport:
    """Sample every prompt of a file; continues a file that the same settings began.

    Args:
        batch_size: completions decoded at once; changes the speed, not the outcome (up to rounding).
        advance: called with the number of rows that were added, or found there.
        sampler: that of `settings`, if it is loaded already.

    Raises:
        InputError: prompts, settings or models are wrong, or `out` was made otherwise.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: it must be at least 1")
    rows = read_rows(prompts)
    record = {**asdict(settings), "models": _fingerprint(settings), "prompts": digest(prompts.read_bytes())}
    present = _present(out, record, settings.samples, len(rows), overwrite=overwrite)
    advance(present)
    jobs = [(index, sample) for index in range(len(rows)) for sample in range(settings.samples)][present:]
    if not jobs:
        return GenerateReport(present, 0, 0, 0.0, float("nan"), float("nan"))
    sampler = sampler or sampler_of(settings)
    encoded = [encode(row, sampler.tokenizer, f"{prompts}, row {index}") for index, row in enumerate(rows)]
    ids = {index: prompt.ids for index, prompt in enumerate(encoded)}
    for index, prompt in ids.items():
        sampler.must_fit(prompt, f"{prompts}, row {index},")
    if not present:
        _begin(out, record)
    started, tokens = time.perf_counter(), 0
    with continued(out) as file:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            completions = complete(sampler, settings, batch, ids)
            file.append(
                _row(*job, encoded[job[0]], completion, sampler, ids=settings.keep_prompt_ids)
                for job, completion in zip(batch, completions, strict=True)
            )
            tokens += sum(len(completion.ids) for completion in completions)
            advance(len(batch))
    return GenerateReport(
        present + len(jobs),
        len(jobs),
        tokens,
        time.perf_counter() - started,
        sampler.acceptance.rate,
        sampler.acceptance.tokens_per_early_pass,
    )


def complete(
    sampler: Sampler, settings: GenerationSettings, jobs: Sequence[tuple[int, int]], prompts: Mapping[int, list[int]]
) -> list[Completion]:
    """One completion for each job, a prompt's index and a sample's number, all in one batch.

    Args:
        prompts: token ids of each prompt, by its index.
    """
    return sampler.sample(
        [prompts[index] for index, _ in jobs],
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=settings.max_new_tokens,
        seeds=[row_seed(settings.seed, index, sample) for index, sample in jobs],
    )


def _row(index: int, sample: int, prompt: Prompt, completion: Completion, sampler: Sampler, *, ids: bool) -> Row:
    """A line of the output; with the prompt's token ids, if so asked."""
    return {
        "index": index,
        "sample": sample,
        "prompt": prompt.text,
        **({"prompt_ids": prompt.ids} if ids else {}),
        "response": sampler.text(completion),
        "response_ids": completion.ids,
        "finish_reason": completion.finish_reason,
    }


def settings_file(out: Path) -> Path:
    """Where the settings that made `out` are kept."""
    return out.with_name(out.name + ".settings.json")


def _present(out: Path, record: dict[str, Any], samples: int, prompts: int, *, overwrite: bool) -> int:
    """Whole rows that `out` has already."""
    beside = settings_file(out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: give a file")
    if not out.exists() or not out.stat().st_size:
        return 0
    if not beside.exists():
        raise InputError(f"--out {out} exists and driftline generate did not write it: choose another file")
    if overwrite:
        return 0
    made_with = json.loads(beside.read_text())
    changed = [name for name in record if made_with.get(name) != record[name]]
    if changed:
        name = changed[0]
        raise InputError(
            f"--out {out} was made with other settings ({name} {made_with.get(name)!r}, now {record[name]!r}): "
            "choose another file, or add --overwrite"
        )
    return _complete_rows(out, samples, prompts)


def _begin(out: Path, record: dict[str, Any]) -> None:
    """An empty file with its settings beside it.

    Emptied first: rows are never beside settings that did not make them, and a call that finds none begins again.
    """
    beside = settings_file(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"")
        sync(out)
        replace_text(beside, json_text(record))
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): choose another file") from error


def _complete_rows(out: Path, samples: int, prompts: int) -> int:
    """The number of whole rows, which must be the first ones."""
    rows = whole_lines(out)
    for place, line in enumerate(rows):
        try:
            row = json.loads(line)
            found = (row["index"], row["sample"])
        except (ValueError, KeyError, TypeError):
            found = None
        if found != divmod(place, samples) or place >= prompts * samples:
            raise InputError(f"--out {out}, line {place + 1}, is damaged: add --overwrite to begin again")
    return len(rows)


def _fingerprint(settings: GenerationSettings) -> dict[str, str]:
    """Sizes and times of the models' weight files, hashed: other weights under the same name are noticed."""
    found = weights_of(filter(None, (settings.late, settings.early)))
    return {source: digest_of(files) for source, files in found.items()}
