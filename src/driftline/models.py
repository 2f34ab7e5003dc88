"""A checkpoint as a model that runs: loaded by transformers, with its tokenizer, checked once.

Nothing here is imported by the weight path. Code that comes with a checkpoint is never executed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from driftline.errors import InputError, in_one_sentence
from driftline.files import remote
from driftline.files.json import json_text, read_json
from driftline.rehearsal import refuse_claims

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_LARGEST = 2**31 - 1  # a token's id, and a number of positions
DTYPES = ("auto", "float32", "bfloat16", "float16")


def quiet_libraries() -> None:
    """No progress bars and no advice on standard error from transformers."""
    import logging

    from transformers.utils import logging as transformers_logging

    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()


def default_device() -> torch.device:
    """The first accelerator, or the CPU with as many threads as the process may use."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return torch.device("cpu")


def load_model(source: str | Path, *, dtype: str = "auto", device: torch.device | str | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode, from a local folder, a Hub name or a local GGUF file.

    Args:
        dtype: `auto` (as saved), `float32`, `bfloat16` or `float16`.

    Raises:
        InputError: transformers is not installed, or cannot load it.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise InputError(f"running a model needs {error.name}: pip install 'driftline[models]'") from error
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype!r} is unknown: choose {', '.join(DTYPES)}")
    quiet_libraries()
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    given = _gguf(source)
    with (
        in_one_sentence(f"{source} cannot be loaded as a causal language model", "give the folder of a complete one"),
        _on_disk(source, weights=True) as folder,
    ):
        model, told = AutoModelForCausalLM.from_pretrained(
            folder, dtype=wanted, trust_remote_code=False, output_loading_info=True, **given
        )
        if lacking := sorted(told["missing_keys"]):  # transformers fills them at random, and goes on
            raise InputError(
                f"{source} lacks {len(lacking)} tensors of its model ({lacking[0]}): give the folder of a complete one"
            )
        if given:
            _forget_quantisation(model)
        model = model.to(device or default_device()).eval()
        with torch.inference_mode():
            token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
            model(input_ids=token, use_cache=False)  # what loads may still not run
        return model


def model_of(
    source: str | Path,
    *,
    dtype: str,
    holds: int,
    device: torch.device | str | None = None,
    changed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> PreTrainedModel:
    """A causal language model as its configuration describes it, in evaluation mode, its weights not loaded.

    Args:
        holds: numbers that the weights are, which the model's are held against.
        changed: what is made of the configuration first.

    Raises:
        InputError: transformers is not installed, or knows no such model; it asks for many more weights.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise InputError(f"running a model needs {error.name}: pip install 'driftline[models]'") from error
    if dtype not in DTYPES[1:]:
        raise InputError(f"--dtype {dtype!r} is unknown: choose {', '.join(DTYPES)}")
    quiet_libraries()
    with (
        _configuration_loads(source),
        _on_disk(source) as folder,
        tempfile.TemporaryDirectory(prefix="driftline-") as copy,
    ):
        values = changed(read_json(Path(folder) / "config.json"))
        (Path(copy) / "config.json").write_text(json_text(values))
        refuse_claims(Path(copy), model=True, source=source, holds=holds)
        config = AutoConfig.from_pretrained(copy, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
        return model.to(device or default_device()).eval()


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Its tokenizer, padding on the left.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError(f"running a model needs {error.name}: pip install 'driftline[models]'") from error
    quiet_libraries()
    with (
        in_one_sentence(f"{source} has no tokenizer that loads", "save that of its model beside it"),
        _on_disk(source) as folder,
        _silence(),
    ):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False, **_gguf(source))
        if not isinstance(tokenizer.model_max_length, (int, float)):
            raise InputError(
                f"{source} has a model_max_length that is no number ({tokenizer.model_max_length!r:.60}): "
                "mend its tokenizer_config.json"
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def refuse_different_vocabularies(early: str | Path, late: str | Path) -> None:
    """Two models whose logits are combined must mean the same by every token.

    Raises:
        InputError: their tokenizers differ; names a token.
    """
    first, second = load_tokenizer(early).get_vocab(), load_tokenizer(late).get_vocab()
    if first != second:
        token = sorted(set(first.items()) ^ set(second.items()))[0][0]
        raise InputError(
            f"{early} and {late} have different vocabularies ({token!r} is {first.get(token)} in one and "
            f"{second.get(token)} in the other): give two models of one run"
        )


def context_length(model: PreTrainedModel) -> int | None:
    """Positions that a loaded model was made for, where its configuration says so.

    Raises:
        InputError: it says what is no number of positions.
    """
    return _context(model.config.get_text_config(), model.config.name_or_path)


def _context(config: PretrainedConfig, source: str | Path) -> int | None:
    said = getattr(config, "max_position_embeddings", None)
    if said is not None and (type(said) is not int or not 0 < said <= _LARGEST):
        raise InputError(f"{source} has max_position_embeddings = {said!r:.60} in its config.json: mend it")
    return said


def configuration_of(source: str | Path) -> PretrainedConfig:
    """A saved model's configuration as transformers reads it.

    Raises:
        InputError: there is none that loads.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise InputError(f"running a model needs {error.name}: pip install 'driftline[models]'") from error
    quiet_libraries()
    with _configuration_loads(source), _on_disk(source) as folder:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config.get_text_config()  # which a damaged one does not have
        return config


class Limits(NamedTuple):
    """What a model takes: so many tokens in a row, of so many kinds; None where nothing says so."""

    context: int | None = None
    vocabulary: int | None = None


NO_LIMITS = Limits()


def limits_of(source: str | Path) -> Limits:
    """Of a saved model, from its configuration alone.

    Raises:
        InputError: there is none that loads.
    """
    config = configuration_of(source).get_text_config()
    return Limits(_context(config, source), getattr(config, "vocab_size", None))


def vocabulary_size(model: PreTrainedModel) -> int:
    """Of a loaded model: its tokens' ids are below."""
    return int(model.config.get_text_config().vocab_size)


def declared_ends(source: str | Path) -> frozenset[int]:
    """The tokens that end a completion, as a saved model's generation settings say, or its configuration without them."""
    from transformers import GenerationConfig

    with _configuration_loads(source), _on_disk(source) as folder:
        try:
            settings = GenerationConfig.from_pretrained(folder)
        except OSError:
            settings = GenerationConfig.from_pretrained(folder, config_file_name="config.json", _from_model_config=True)
        return end_ids_of(settings.eos_token_id, source)


def end_ids_of(declared: Any, source: str | Path) -> frozenset[int]:
    """The tokens that end a completion, of an `eos_token_id`: an id, several, or None.

    Raises:
        InputError: it is something else; `source` is whose it is.
    """
    several = declared if isinstance(declared, (list, tuple)) else [declared]
    ends = [token for token in several if token is not None]
    if odd := [token for token in ends if type(token) is not int or abs(token) > _LARGEST]:
        raise InputError(
            f"{source} has an eos_token_id that is no token id ({odd[0]!r:.60}): mend its generation_config.json or config.json"
        )
    return frozenset(ends)


def _configuration_loads(source: str | Path) -> AbstractContextManager[None]:
    return in_one_sentence(f"{source} has no configuration that loads", "put that of its model there")


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is written to standard error, where a library in Rust prints why it gives up before it raises that."""
    if os.environ.get("DRIFTLINE_DEBUG") == "1":
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _on_disk(source: str | Path, *, weights: bool = False) -> Iterator[str | Path]:
    """The source as transformers takes it, whose claims have bounds; what of a remote folder is needed is fetched first.

    Args:
        weights: whether its weights will be loaded too.
    """
    if given := _gguf(source):
        refuse_claims(Path(source).parent, model=weights, gguf=given["gguf_file"])
        yield Path(source).parent
        return
    with remote.local_copy(source, weights=weights) as folder:
        if (place := _must_look_like_a_model(folder, source)) is not None:
            refuse_claims(place, model=weights, source=source)
        yield folder


def _gguf(source: str | Path) -> dict[str, str]:
    """How transformers is told which file of a folder to read, where the source is a GGUF file."""
    path = Path(source) if isinstance(source, str) else source
    return {"gguf_file": path.name} if path.suffix == ".gguf" and path.is_file() else {}


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Weights read from quantised ones are whole from here on: without its marks the model trains and is saved."""
    for owner, mark in (
        (model.config, "quantization_config"),
        (model, "hf_quantizer"),
        (model, "is_quantized"),
        (model, "quantization_method"),
    ):
        if hasattr(owner, mark):
            delattr(owner, mark)


def _must_look_like_a_model(folder: str | Path, source: str | Path) -> Path | None:
    """Where its configuration is, which for a name of the Hub is fetched into its cache; None where there is none."""
    path = Path(folder)
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"{source} has no config.json: give the folder of a model")
    if not path.exists():
        if str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
            raise InputError(f"{source} does not exist: give a model's folder, or a Hub name such as owner/model")
        from transformers.utils import cached_file

        found = cached_file(str(source), "config.json", _raise_exceptions_for_missing_entries=False)
        return Path(found).parent if found else None
    refuse_pipes(path)
    _refuse_outside(path)
    return path


def _refuse_outside(folder: Path) -> None:
    """A library reads whatever file an index names; those of another folder are not this model's to give."""
    for index in folder.glob("*.index.json"):
        try:
            named = set(map(str, read_json(index)["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # which who loads it will say
        if outside := sorted(name for name in named if Path(name).name != name):
            raise InputError(
                f"{index} names {outside[0]!r}, which is outside its folder: give the folder of a complete model"
            )


def refuse_pipes(folder: Path) -> None:
    """A library that opens what it finds in a folder would wait for ever for what a pipe says.

    Raises:
        InputError: something in it is neither a file nor a folder.
    """
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.exists() and not entry.is_file() and not entry.is_dir():
            raise InputError(f"{entry} is no file but a pipe, socket or device: move it out of the folder")
