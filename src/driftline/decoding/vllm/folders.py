"""Any checkpoint that driftline reads as a folder that vLLM loads: itself where it is one, else a copy for a while."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np

from driftline._version import __version__
from driftline.checkpoints.bases import is_change
from driftline.checkpoints.layouts import Checkpoint, huggingface
from driftline.checkpoints.model_config import configuration
from driftline.checkpoints.opening import open_checkpoint
from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.decoding.adapter import base_of, is_adapter
from driftline.errors import InputError, UnreadableCheckpoint, first_line
from driftline.files import remote
from driftline.files.json import read_json
from driftline.files.output import clear_leftovers, scratch_folder
from driftline.forecast.forecast import Forecast, Origin
from driftline.writing.storage import DTYPES, Storage
from driftline.writing.write import write

Source: TypeAlias = str | Path | Checkpoint
_HALVES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_OF_A_MODEL = [f"*{suffix}" for suffix in (*remote.BESIDE_WEIGHTS, ".safetensors") if suffix != ".py"]


@contextmanager
def model_folder(source: Source, *, dtype: str = "auto") -> Iterator[Path]:
    """A folder of safetensors, configuration and tokenizer; a copy that was written for it is gone afterwards.

    An adapter is written as the whole model that it makes of its base; ranks' shards and state dicts are put together.

    Args:
        source: a local folder, an address such as `hf://owner/name`, a Hub name, or a checkpoint that is open already.
        dtype: that the model will run in; a copy is written in it, so that nothing is rounded that need not be.

    Raises:
        InputError: it cannot be read, no model can be made of it, or there is no room for the copy.
    """
    if isinstance(source, Checkpoint):
        checkpoint = source
        if (folder := _as_it_is(source)) is not None:
            yield folder
            return
    else:
        with remote.local_copy(local(source)) as here:
            checkpoint = _open(Path(here))
            if (folder := _as_it_is(checkpoint)) is not None:
                yield folder
                return
            with _copy(_whole(Path(here), checkpoint), dtype) as copied:
                yield copied
        return
    with _copy(_one(checkpoint), dtype) as copied:
        yield copied


def running_dtype(asked: str, models: Sequence[tuple[Source, Path]]) -> str:
    """The dtype to run models in, by name: what is asked for, or, of `auto`, that in which all of them are saved.

    vLLM has one for both of a pair: float32, which rounds neither, where they are saved in different ones. Its own
    `auto` is not asked, as it halves float32.

    Args:
        models: what was named, and the folder that vLLM is given.
    """
    if asked != "auto":
        return asked
    saved = {saved_dtype(source, folder) for source, folder in models}
    return saved.pop() if len(saved) == 1 else "float32"


def saved_dtype(source: Source, folder: Path) -> str:
    """The dtype in which transformers would run the model where `auto` is asked for."""
    if isinstance(source, Checkpoint) and not source.as_saved:
        stored = {info.written for info in source.tensors.values()}
        return _HALVES[next(iter(stored))] if stored in ({"BF16"}, {"F16"}) else "float32"
    config = read_json(folder / "config.json")
    for part in (config, config.get("text_config") or {}):
        if name := part.get("dtype") or part.get("torch_dtype"):
            return str(name).removeprefix("torch.")
    for file in sorted(folder.glob("*.safetensors")):
        for info in read_header(file).values():
            if info.dtype in _HALVES:
                return _HALVES[info.dtype]
    return "float32"


def local(source: str | Path) -> Path:
    """The folder of a model: where it lies, its address, or, of a Hub name, where its files were fetched to.

    Raises:
        InputError: there is none.
    """
    if remote.is_address(source):
        return remote.folder(str(source))
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        raise InputError(f"{source} is a GGUF file, which vLLM's engine is not given: give a folder of safetensors")
    if path.is_dir():
        return path
    if path.exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
        raise InputError(f"{source} does not exist: give a model's folder, or a Hub name such as owner/model")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(source), allow_patterns=_OF_A_MODEL))
    except ImportError as error:
        raise InputError(
            f"{source} is a name on the Hub, which needs {error.name}: pip install 'driftline[hub]'"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} cannot be fetched from the Hub ({first_line(error)}): give a model's folder, or check the name"
        ) from error


def _open(folder: Path) -> Checkpoint:
    try:
        return open_checkpoint(folder)
    except UnreadableCheckpoint as error:
        raise InputError(str(error)) from error


def _as_it_is(checkpoint: Checkpoint) -> Path | None:
    """Its folder, where vLLM can load it; quantised weights stay as they are."""
    quantised = checkpoint.layout == huggingface.NAME and "quantization_config" in configuration(checkpoint.model)
    plain = checkpoint.as_saved and not checkpoint.left_out
    whole = (checkpoint.model / "config.json").is_file() and checkpoint.model == (checkpoint.place or checkpoint.path)
    return checkpoint.model if whole and (plain or quantised) else None


def _whole(folder: Path, checkpoint: Checkpoint) -> Trajectory:
    """The one checkpoint as a run, an adapter on the base that it names."""
    if not is_change(checkpoint):
        return open_trajectory([f"0={folder}"])
    place = checkpoint.place or folder
    with remote.local_copy(local(base_of(place if is_adapter(place) else folder))) as base:
        both = open_trajectory([f"1={folder}"], base=str(base))
    return both.only(both.steps[-1:])


def _one(checkpoint: Checkpoint) -> Trajectory:
    """A checkpoint of a trajectory as a run of its own."""
    return Trajectory(str(checkpoint.path), (0,), (checkpoint,), (), {}, {}).only((0,))


@contextmanager
def _copy(trajectory: Trajectory, dtype: str) -> Iterator[Path]:
    """The last checkpoint, written whole where temporary files go, each weight as it is."""
    out = Path(tempfile.gettempdir()) / "driftline-model"
    last = np.eye(len(trajectory.steps))[-1]
    origin = Origin(
        driftline=__version__, target=float(trajectory.steps[-1]), method="hold", observed=[trajectory.steps[-1]]
    )
    forecast = Forecast({tensor.name: last for tensor in trajectory}, origin)
    clear_leftovers(out)  # of a process that was killed
    with scratch_folder(out) as folder:
        folder.chmod(0o700)
        try:
            write(trajectory, {folder: forecast}, Storage(keep=(), dtype=dtype if dtype in DTYPES else "same"))
        except OSError as error:
            raise InputError(
                f"{trajectory.name} has to be written as a whole model for vLLM, which {out.parent} has no room for "
                f"({error.strerror}): name another folder with TMPDIR"
            ) from error
        yield folder
