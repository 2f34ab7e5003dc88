"""Writing forecast models: one streaming pass, only the checkpoints that count, bounded memory.

The inputs are read once for all targets. Every output is a Hugging Face folder: weights in shards with an
index, the configuration, tokenizer and chat template of the last checkpoint, a model card, and
`driftline.json`, the recipe that makes the same bytes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from driftline.checkpoints.safetensors_writer import reserved, write_index
from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine, LocalEngine
from driftline.files.record import write_record
from driftline.forecast.forecast import Forecast
from driftline.writing.card import card
from driftline.writing.checks import refuse_differences
from driftline.writing.layout import lay_out
from driftline.writing.recipe import copy_beside, files_read, recipe, refuse_damaged_config, refuse_links_out, source
from driftline.writing.record import MARK, Recipe
from driftline.writing.storage import Storage
from driftline.writing.streaming import stream
from driftline.writing.tensor_plan import plan_tensor


def write(
    trajectory: Trajectory,
    forecasts: Mapping[Path, Forecast],
    storage: Storage,
    *,
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> list[Recipe]:
    """Write every forecast, reading each weight once for all of them.

    Args:
        forecasts: by the folder that each is written into, which exists and is empty.
        engine: where the work runs; default threads of this process.

    Returns:
        What each folder's `driftline.json` holds.

    Raises:
        InputError: tensors that differ between checkpoints, a dtype that cannot be written, a pattern that
            keeps nothing, weights that are not finite, a file beside them that is a link out of the
            run, or a configuration that is none.
        OSError: the disk is full; known before any work, as the space is reserved first.
    """
    engine = engine or LocalEngine()
    refuse_differences(trajectory, storage)
    refuse_links_out(trajectory)
    refuse_damaged_config(trajectory)
    layout = lay_out(trajectory, storage)
    folders, planned = list(forecasts), list(forecasts.values())
    plans = [plan_tensor(output, planned, storage) for output in layout]
    placed = [output.placed for output in layout]
    with reserved(folders, placed) as handles, ThreadPoolExecutor(1) as beside:
        # hashes keep up with the pass, so that a file is fetched once
        hashing = beside.submit(lambda: list(engine.map(source, files_read(trajectory, planned))))
        losses = stream(plans, folders, handles, trajectory.steps, seed=storage.seed, engine=engine, progress=progress)
        sources = hashing.result()
    records = []
    for (folder, forecast), loss in zip(forecasts.items(), losses, strict=True):
        write_index(folder, placed)
        copy_beside(trajectory, layout, folder, storage.dtype)
        record = recipe(trajectory, layout, forecast, storage, sources=sources, rounding_loss=loss.share)
        write_record(folder / MARK, record)
        (folder / "README.md").write_text(card(record, trajectory), encoding="utf-8", errors="backslashreplace")
        records.append(record)
    return records


def bytes_read(trajectory: Trajectory) -> int:
    """Bytes of the last checkpoint: what `progress` counts up to."""
    return sum(info.nbytes for info in trajectory.checkpoints[-1].tensors.values())
