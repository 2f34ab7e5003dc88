"""vLLM's offline engine in a process of its own: one at a time, kept from one model of a kind to the next.

What is asked for is `engine_of(weights)`. Where the engine that runs holds other weights of the same kind, these are
read into it in place; of another kind it is shut down and one is started anew. `close_engines` ends it, as does the
end of this process, however it ends.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.safetensors_file import read_header
from driftline.decoding.backends.vllm_settings import engine_arguments
from driftline.decoding.backends.window import Window
from driftline.decoding.vllm.folders import Source, model_folder, running_dtype
from driftline.decoding.vllm.launch import environment, on_cpu
from driftline.decoding.vllm.plugin import OWNER
from driftline.errors import InputError, UnreadableCheckpoint, first_line
from driftline.files.fingerprint import stamp, weights_of
from driftline.files.json import read_json

_ALPHA = "driftline.decoding.vllm.alpha:RequestAlpha"
_OF_NO_ACCOUNT = ("_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype")  # in a configuration


@dataclass(frozen=True)
class Weights:
    """The models of an engine: one, or early and late side by side.

    Attributes:
        dtype: to run them in; `auto`: as saved.
        at_once: sequences decoded together; None leaves it to vLLM.
        scoring: log-probs of given tokens are wanted, not samples.
    """

    late: Source
    early: Source | None = None
    dtype: str = "auto"
    at_once: int | None = None
    scoring: bool = False

    def state(self) -> str:
        """What tells them from others, or from the same after a change on disk."""
        files = [_files(source) for source in (self.late, self.early) if source is not None]
        return json.dumps([files, self.dtype, self.at_once, self.scoring])


@dataclass(frozen=True)
class _Kind:
    """Two models of a kind differ in the values of their weights only, so that one can take the other's place."""

    arguments: str
    tensors: str

    @property
    def swaps(self) -> bool:
        return bool(self.tensors)


class VllmEngine:
    """A running engine."""

    def __init__(self, llm: Any, kind: _Kind, state: str, said: IO[str] | None) -> None:
        self._llm, self.kind, self.state, self._said = llm, kind, state, said
        self._asked = 0
        self._running: set[str] = set()

    @property
    def longest(self) -> int:
        """Tokens of a prompt and what follows it that the cache has room for."""
        return int(self._llm.llm_engine.vllm_config.model_config.max_model_len)

    @property
    def at_once(self) -> int:
        return int(self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)

    def run(self, requests: Sequence[tuple[Sequence[int], Mapping[str, Any]]]) -> Iterator[list[Any]]:
        """What vLLM finds for each request, some at a time, in the order of the requests.

        Args:
            requests: token ids, and what `vllm.SamplingParams` is given.

        Raises:
            InputError: the engine has died; says of what.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        engine, window = self._llm.llm_engine, Window[Any](len(requests), 2 * self.at_once, 4 * self.at_once)
        places: dict[str, int] = {}
        try:
            while not window.finished:
                for place in window.due():
                    ids, arguments = requests[place]
                    name = str(self._asked)
                    self._asked += 1
                    params = SamplingParams(**arguments, output_kind=RequestOutputKind.FINAL_ONLY)
                    places[name] = place
                    engine.add_request(name, {"prompt_token_ids": list(ids)}, params)
                    self._running.add(name)
                for output in engine.step():
                    if output.finished:
                        self._running.discard(output.request_id)
                        window.put(places.pop(output.request_id), output)
                if found := window.ready():
                    yield found
        except EngineDeadError as error:
            why = _cause(self._said, error)
            close_engines()
            raise InputError(
                f"vLLM's engine stopped ({why}): repeat the command to go on, with less at once (--batch-size) if memory ran out"
            ) from error
        finally:
            left = [name for name in places if name in self._running]
            self._running.difference_update(left)
            if left and _running is self:  # the caller was stopped
                with suppress(Exception):
                    engine.abort_request(left)

    def swap(self, folder: Path, state: str) -> bool:
        """Read the weights of a folder in place of those that are there; whether that could be done."""
        if self._running:
            raise RuntimeError("weights cannot change while samples of the former ones are drawn")
        self.state = ""  # of neither model, should this fail
        try:
            with _hushed(self._said):
                self._llm.collective_rpc("driftline_swap", args=(str(folder),))
                clean = self._llm.reset_prefix_cache()
        except Exception:  # whatever it was: a new engine says what is wrong with a model that cannot be loaded
            return False
        self.state = state
        return bool(clean)

    def close(self) -> None:
        """End its processes."""
        with suppress(Exception):
            self._llm.llm_engine.engine_core.shutdown()
        if self._said is not None:
            self._said.close()


_running: VllmEngine | None = None


def engine_of(weights: Weights) -> VllmEngine:
    """The engine with these weights: the one that runs if it can take them, else a new one.

    Raises:
        InputError: vLLM is not installed, or cannot run them.
    """
    global _running
    state = weights.state()
    if _running is not None and _running.state == state:
        return _running
    _must_not_be_a_ray_worker()
    with ExitStack() as opened:
        folders = [
            opened.enter_context(model_folder(source, dtype=weights.dtype))
            for source in (weights.late, weights.early)
            if source is not None
        ]
        arguments = _arguments(weights, folders)
        kind = _Kind(json.dumps(arguments, sort_keys=True, default=str), _tensors(folders))
        alike = _running is not None and _running.kind == kind and kind.swaps and weights.early is None
        if _running is not None and alike and _running.swap(folders[0], state):
            return _running
        close_engines()
        llm, said = _start(str(_named(weights.late)), {"model": str(folders[0]), **arguments})
        _running = VllmEngine(llm, kind, state, said)
    return _running


def close_engines() -> None:
    """End the engine that runs, if one does."""
    global _running
    engine, _running = _running, None
    if engine is not None:
        engine.close()


def _must_not_be_a_ray_worker() -> None:
    ray = sys.modules.get("ray")
    connected = getattr(ray, "is_initialized", bool)  # vLLM leaves an empty module where Ray is not installed
    if ray is not None and connected() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        raise InputError(
            "--backend vllm runs on one machine: leave --engine ray out, or use --backend transformers with it"
        )


def _arguments(weights: Weights, folders: Sequence[Path]) -> dict[str, Any]:
    """What `vllm.LLM` is told besides the model's folder."""
    sources = [source for source in (weights.late, weights.early) if source is not None]
    dtype = running_dtype(weights.dtype, list(zip(sources, folders, strict=True)))
    found = engine_arguments(dtype=dtype, at_once=weights.at_once, scoring=weights.scoring, on_cpu=on_cpu())
    if weights.early is not None:
        from driftline.decoding.vllm.checks import pair_overrides

        overrides, context = pair_overrides(folders[1], folders[0], 1.0)  # each request names its own alpha
        found |= {"hf_overrides": overrides, "logits_processors": [_ALPHA]}
        if context is not None:
            found["max_model_len"] = context
    return found


def _tensors(folders: Sequence[Path]) -> str:
    """What two folders must have in common to be of a kind; nothing where weights cannot take others' place."""
    found: list[Any] = []
    for folder in folders:
        config = read_json(folder / "config.json")
        shards = sorted(folder.glob("*.safetensors"))
        if not shards or "quantization_config" in config:
            return ""
        try:
            headers = [info for file in shards for info in read_header(file).values()]
        except UnreadableCheckpoint as error:
            raise InputError(str(error)) from error
        found.append({name: value for name, value in config.items() if name not in _OF_NO_ACCOUNT})
        found.append(sorted((info.name, list(info.shape)) for info in headers))
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _files(source: Source) -> list[Any]:
    if isinstance(source, Checkpoint):
        files = {file for info in source.tensors.values() for file in info.files}
        return [str(source.path), source.layout, [stamp(file) for file in sorted(files)]]
    return [str(source), weights_of([str(source)]) if Path(source).is_dir() else []]


def _named(source: Source) -> str | Path:
    return source.path if isinstance(source, Checkpoint) else source


def _start(name: str, arguments: dict[str, Any]) -> tuple[Any, IO[str] | None]:
    """A new engine, and where its processes write what they have to say.

    Raises:
        InputError: vLLM cannot run the model; says why.
    """
    loud = os.environ.get("VLLM_LOGGING_LEVEL", "ERROR") != "ERROR"
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of what is meant so, such as its tokenizer left out
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is the command's own
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # threads draw progress bars here: a fork could stand still
        "VLLM_NO_USAGE_STATS": "1",
    }
    always = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", OWNER: str(os.getpid())}
    os.environ.update(defaults | environment(None) | always)
    said = None if loud else tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # as long as the engine
    others = set(multiprocessing.active_children())
    with _hushed(said):
        try:
            from vllm import LLM

            atexit.unregister(close_engines)
            atexit.register(close_engines)  # after multiprocessing's own, which waits for the engine, and so before it
            return LLM(**arguments), said
        except ImportError as error:
            raise InputError(f"vLLM does not load ({first_line(error)}): pip install 'driftline[vllm]'") from error
        except Exception as error:
            remedy = (
                "use --backend transformers" if loud else "use --backend transformers, or see VLLM_LOGGING_LEVEL=INFO"
            )
            raise InputError(f"vLLM cannot run {name} ({_cause(said, error)}): {remedy}") from error
        except BaseException:  # stopped while it starts, and perhaps twice: what is left would be waited for at the end
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise
        finally:
            os.environ.pop(OWNER)  # of these processes, and of none that start later


@contextmanager
def _hushed(said: IO[str] | None) -> Iterator[None]:
    """Standard output and error of this process, and of those that it starts, into `said` for the time of the block.

    Without it, what would go to standard output goes to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(number) for number in (1, 2)]
    try:
        if said is None:
            os.dup2(2, 1)
        else:
            for number in (1, 2):
                os.dup2(said.fileno(), number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, was in zip((1, 2), saved, strict=True):
            os.dup2(was, number)
            os.close(was)


_PREFIX = re.compile(r"^\([^)]*\) (?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_RAISED = re.compile(r"^(?:[\w.]*(?:Error|Exception)|Value error,):? (.+)")


def _cause(said: IO[str] | None, error: BaseException) -> str:
    """What went wrong, in a line: the last error that the engine's processes wrote of, else the error itself."""
    lines = str(error).splitlines()
    if said is not None:
        said.flush()
        said.seek(0)
        lines = [*lines, *said.read().splitlines()]
    raised = (_RAISED.match(_PREFIX.sub("", line).strip()) for line in lines)
    causes = [match[1] for match in raised if match and not re.search(r"initialization failed|root cause", match[1])]
    return re.sub(r" \[type=.*", "", causes[-1]).rstrip(".:") if causes else first_line(error).rstrip(".:")
