"""What goes beside the weights: `driftline.json`, which makes the same bytes again, and the files that a model needs."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from blake3 import blake3

from driftline.checkpoints.trajectory import Trajectory
from driftline.checkpoints.true_config import true_to
from driftline.errors import InputError, UnreadableCheckpoint, first_line
from driftline.files import remote
from driftline.files.json import json_text, read_json
from driftline.files.record import UNSET
from driftline.files.regular import open_regular
from driftline.forecast.forecast import Forecast
from driftline.writing.layout import OutputTensor
from driftline.writing.record import MARK, Recipe, SourceFile
from driftline.writing.storage import Storage

_HASH_BLOCK = 1 << 19
_NOT_COPIED = (
    "*.index.json",
    "trainer_state.json",
    "run.json",
    "adapter_config.json",  # from_pretrained would look for the adapter
    MARK,
)


def recipe(
    trajectory: Trajectory,
    layout: Sequence[OutputTensor],
    forecast: Forecast,
    storage: Storage,
    *,
    sources: list[SourceFile],
    rounding_loss: float,
) -> Recipe:
    """The contents of `driftline.json`.

    Args:
        sources: see `source`.
        rounding_loss: ||rounding error|| / ||forecast - first checkpoint used||.
    """
    per, coefficients = _coefficients(trajectory, forecast)
    return Recipe(
        **msgspec.structs.asdict(forecast.origin),
        steps=list(trajectory.steps),
        coefficients_per=per,
        coefficients=coefficients,
        sources=sources,
        keep=list(storage.keep),
        kept=[output.name for output in layout if output.kept],
        copied=[output.name for output in layout if output.series is None],
        dtype=storage.dtype,
        written_dtype="+".join(sorted({output.dtype for output in layout if output.series is not None})),
        rounding=storage.rounding,
        seed=storage.seed,
        shard_bytes=storage.shard_bytes,
        rounding_loss=rounding_loss,
        carried=sorted(trajectory.carried) or UNSET,
        notes=list(trajectory.remarks) or UNSET,
    )


def _coefficients(trajectory: Trajectory, forecast: Forecast) -> tuple[str, dict[str, Any]]:
    """`run` and step -> coefficient where all tensors have the same; else `tensor` and that of each."""
    by_step = {
        name: dict(zip(map(str, trajectory.steps), vector.tolist(), strict=True))
        for name, vector in forecast.coefficients.items()
    }
    if len({vector.tobytes() for vector in forecast.coefficients.values()}) == 1:
        return "run", next(iter(by_step.values()))
    return "tensor", by_step


def files_read(trajectory: Trajectory, forecasts: Iterable[Forecast]) -> list[tuple[int, Path]]:
    """(step, file) of every file that the forecasts are made of, the last checkpoint's among them; a rule's are all."""
    made = list(forecasts)
    vectors = {vector.tobytes(): vector for forecast in made for vector in forecast.coefficients.values()}
    rows = {len(trajectory.steps) - 1}.union(*(vector.nonzero()[0].tolist() for vector in vectors.values()))
    if any(forecast.rule is not None for forecast in made):
        rows = set(range(len(trajectory.steps)))
    return [
        (trajectory.steps[row], file)
        for row in sorted(rows)
        for file in sorted({file for info in trajectory.checkpoints[row].tensors.values() for file in info.files})
    ]


def source(read: tuple[int, Path]) -> SourceFile:
    """One file that is read, with its size and BLAKE3 hash (what `b3sum` prints); a remote one is not read twice for it."""
    (step, file), digest, block = read, blake3(), memoryview(bytearray(_HASH_BLOCK))
    try:
        if remote.is_remote(file):
            return SourceFile(step=step, file=str(file), **remote.origin(file))
        with open_regular(file, buffering=0) as handle:
            while count := cast(Any, handle).readinto(block):
                digest.update(block[:count])
            size = os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise UnreadableCheckpoint(f"{file} cannot be read ({error.strerror})") from error
    return SourceFile(step=step, file=str(file), bytes=size, blake3=digest.hexdigest())


def copy_beside(trajectory: Trajectory, layout: Sequence[OutputTensor], folder: Path, dtype: str) -> None:
    """Configuration, generation configuration, tokenizer and chat template, from the last checkpoint's folder.

    The configuration is made to say what the weights are: their dtype, the rows of the vocabulary, whether embeddings
    are tied, and that they are not quantised.

    Args:
        dtype: what the configuration is to say; as it was for `same`.
    """
    last = trajectory.checkpoints[-1]
    with remote.local_copy(last.model, weights=False) as here:
        _copy(Path(here), folder)
    if last.tokenizer is not None and last.tokenizer != last.model:
        _copy(last.tokenizer, folder)
    config = folder / "config.json"
    if not config.is_file():
        return
    values = read_json(config)
    written = {output.name: output.info for output in layout}
    changed = true_to(values, written, last.tied, dtype)
    if changed != values:
        config.write_text(json_text(changed))


def refuse_damaged_config(trajectory: Trajectory) -> None:
    """A model is written with the configuration of its run, and does not load with one that is none.

    Weights of a run without any are written alone.

    Raises:
        InputError: it cannot be read, or holds no configuration.
    """
    path = trajectory.checkpoints[-1].model / "config.json"
    try:
        found = read_json(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
    else:
        if isinstance(found, dict):
            return
        reason = "no object"
    raise InputError(
        f"{path} is no configuration ({reason}), so what is written would not load: mend it, or remove it to write weights alone"
    )


def refuse_links_out(trajectory: Trajectory) -> None:
    """A link in a checkpoint can lead to any file of the disk, which would be copied into what is made to be given away.

    Raises:
        InputError: a file that is copied is a link that leads out of the run.
    """
    last = trajectory.checkpoints[-1]
    for source in (last.model, last.tokenizer):
        if source is not None and not remote.is_remote(source):
            _copied(source)


def _copied(source: Path) -> list[Path]:
    """The files of a folder that a model needs; links lead no farther than to the folders beside it, or the Hub's cache."""
    home = source.resolve().parent
    home = next((place.parent for place in (home, *home.parents) if place.name == "snapshots"), home)
    files = [
        file
        for file in sorted(source.iterdir())
        if file.is_file()
        and file.name.endswith(remote.BESIDE_WEIGHTS)
        and not any(fnmatch.fnmatch(file.name, pattern) for pattern in _NOT_COPIED)
    ]
    for file in files:
        if not (target := file.resolve()).is_relative_to(home):
            raise InputError(f"{file} is a link that leads out of its run, to {target}: put a copy in its place")
    return files


def _copy(source: Path, folder: Path) -> None:
    for file in _copied(source):
        shutil.copyfile(file, folder / file.name)
