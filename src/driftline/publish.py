"""Results that leave the machine: a forecast model to the Hugging Face Hub, figures to an experiment tracker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from driftline.errors import InputError, first_line
from driftline.files.atomic import replace_text
from driftline.files.json import read_json
from driftline.files.record import Record
from driftline.writing.record import Recipe, read_recipe

_RESULTS = ("summary.json", "backtest.json", "evaluation.json", "sweep.json", "comparison.json", "study.json")


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    base_model: str | None = None,
    existing: bool = False,
    token: str | None = None,
) -> str:
    """Upload a forecast model, with its card and its recipe, as one commit to the Hugging Face Hub.

    The recipe `driftline.json` goes along; it names the files that the model was made from.

    Args:
        folder: what `driftline extrapolate` wrote (of several targets, one of them).
        repo_id: `owner/name` on the Hub.
        private: whether a new repository is private. One that exists stays as it is.
        base_model: Hub name of the model that the run started from, for the card, where that was not known.
        existing: allow a commit to a repository that exists.
        token: of the Hub; left out, the one that `hf auth login` stored.

    Returns:
        The address of the model.

    Raises:
        InputError: the folder is no forecast, huggingface_hub is missing, or the Hub refuses.
    """
    folder = Path(folder)
    recipe = _recipe(folder)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ImportError as error:
        raise InputError(f"push needs {error.name}: pip install 'driftline[hub]'") from error
    if base_model is not None:
        _name_base(folder / "README.md", base_model)
    api = HfApi(token=token)
    try:
        if not existing and api.repo_exists(repo_id):
            raise InputError(f"{repo_id} exists: choose another name, or give existing=True to add a commit to it")
        api.create_repo(repo_id, private=private, exist_ok=existing)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=f"{recipe.method} forecast of {recipe.target:g}, by driftline {recipe.driftline}",
        )
    except LocalTokenNotFoundError as error:
        raise InputError(f"{repo_id}: the Hub knows you by a token: run hf auth login, or give token=") from error
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no name of the Hub ({_line(error)}): give owner/name") from error
    except (HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{repo_id}: the Hub cannot be reached, or refused ({_line(error)}): check name, token and network"
        ) from error
    return f"{api.endpoint}/{repo_id}"


def _recipe(folder: Path) -> Recipe:
    for file in ("README.md", "config.json"):
        if not (folder / file).is_file():
            raise InputError(f"{folder} holds no forecast model (no {file}): give what driftline extrapolate wrote")
    return read_recipe(folder)


def _name_base(card: Path, base_model: str) -> None:
    """Write the base model into the card's metadata, replacing the file at once."""
    from huggingface_hub import ModelCard

    read = ModelCard.load(card)
    read.data.base_model, read.data["base_model_relation"] = base_model, "finetune"
    replace_text(card, str(read))


def scalars(result: str | Path | Record | dict[str, Any], prefix: str = "driftline") -> dict[str, float]:
    """Every finite number of a result, flat: `{"driftline/r2/median": .95, ...}`.

    Lists (steps, histograms, Gram matrices) are left out; true and false are 1 and 0. This is what trackers take:
    `wandb.log(driftline.scalars("analysis"))`.

    Args:
        result: a folder that a command wrote, its JSON file, or the record itself.
        prefix: what the names begin with.

    Raises:
        InputError: the folder holds no result.
    """
    if isinstance(result, Record):
        result = msgspec.to_builtins(result)
    elif not isinstance(result, dict):
        result = _read(Path(result))
    return dict(_leaves(result, prefix))


def log_results(result: str | Path | Record | dict[str, Any], run: Any, *, step: int | None = None) -> dict[str, float]:
    """Log `scalars(result)` to a run of W&B or trackio, or to a `SummaryWriter` of TensorBoard.

    Args:
        result: as in `scalars`.
        run: what `wandb.init()` or `trackio.init()` returned, or a `SummaryWriter`.
        step: where on the tracker's axis; left out, its own next one (TensorBoard: 0).

    Returns:
        What was logged.

    Raises:
        InputError: the folder holds no result, or `run` is none of these.
    """
    found = scalars(result)
    if hasattr(run, "add_scalar"):
        for name, value in found.items():
            run.add_scalar(name, value, global_step=step or 0)
        run.flush()
    elif hasattr(run, "log"):
        run.log(found, step=step)
    else:
        raise InputError(
            f"{type(run).__name__} has neither log nor add_scalar: give a run of W&B or trackio, or a SummaryWriter"
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    files = [path / name for name in _RESULTS if (path / name).is_file()] if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no result: give a folder that analyze, backtest, evaluate or sweep wrote")
    try:
        read = read_json(files[0])
    except (OSError, ValueError) as error:
        raise InputError(f"{files[0]} cannot be read ({_line(error)}): give the folder of a result") from error
    if not isinstance(read, dict):
        raise InputError(f"{files[0]} is no result: give the folder of one")
    return read


def _leaves(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}/{key}")
    elif isinstance(value, (bool, int, float)) and abs(value) <= sys.float_info.max:  # neither NaN nor infinite
        yield name, float(value)


def _line(error: Exception) -> str:
    return first_line(error)
