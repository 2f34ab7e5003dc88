"""The command, as users start and stop it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from endpoints import Endpoint, head
from tiny_models import pair, save

from driftline.commands.serve import Serve, key_of, run
from driftline.decoding.server.scheduler import Scheduler
from driftline.errors import InputError

ENDLESS = {"model": "driftline", "prompt": "w5", "max_tokens": 100_000, "n": 4, "stream": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that go on for a long time: nothing ends a completion."""
    folder = tmp_path_factory.mktemp("models")
    early, late = pair(max_position_embeddings=200_000, eos_token_id=None)
    return ["--early", str(save(folder / "early", early)), "--late", str(save(folder / "late", late))]


@contextmanager
def started(models: list[str], *flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Endpoint]]:
    command = [sys.executable, "-m", "driftline", "serve", *models, "--alpha", "1.5", "--port", "0", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listening on" in line, process.stderr and process.stderr.read()
        port = int(line.split("/v1")[0].rpartition(":")[2])
        nothing: Any = None
        scheduler: Scheduler = nothing
        yield process, Endpoint("127.0.0.1", port, scheduler)
    finally:
        process.kill()
        process.communicate()


def busy(served: Endpoint) -> list[socket.socket]:
    """Streams that run, and bodies of which the half was sent."""
    opened = [served.begin(ENDLESS) for _ in range(3)]
    for stream in opened:
        assert b" 200 " in stream.recv(4096).split(b"\r\n")[0]
    for _ in range(300):
        opened.append(served.connect())
        opened[-1].sendall(head(1000) + b'{"model": ')
    return opened


@pytest.mark.slow
@pytest.mark.parametrize("working", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_within_two_seconds_whatever_is_open(models, number, code, times, working):
    """Also before it is ready: it is idle as soon as it has said where it listens."""
    with started(models) as (process, served):
        opened = busy(served) if working else []
        begun = time.monotonic()
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.2)
        process.wait(timeout=20)
        assert time.monotonic() - begun < 2
        assert process.returncode == code
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said
        assert said.strip() in ("", "driftline: stopped")
        for connection in opened:
            connection.close()


@pytest.mark.slow
def test_what_can_end_within_the_grace_period_does(models):
    with started(models, "--grace", "20") as (process, served):
        opened = served.begin({"model": "driftline", "prompt": "w5", "max_tokens": 200, "seed": 1})
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        answer = b""
        while part := opened.recv(65536):
            answer += part
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"].split()) == 200
        assert process.wait(timeout=20) == 143
        opened.close()


@pytest.mark.slow
def test_a_key_comes_from_the_environment(models):
    with started(models, DRIFTLINE_KEY="secret") as (_, served):
        with pytest.raises(urllib.error.HTTPError, match="401") as found:
            served.get("/v1/models")
        found.value.close()
        asked = urllib.request.Request(f"{served.url}/models", headers={"authorization": "Bearer secret"})
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200
    with started(models, "--host", "0.0.0.0", "--no-key") as (_, served):
        assert served.get("/health")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "some.host"])
@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_an_open_host_needs_a_key_or_the_word_that_there_is_none(
    host: str, backend: Literal["transformers", "vllm"], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DRIFTLINE_KEY", raising=False)
    with pytest.raises(InputError, match=f"--host {host} is open to other machines"):
        run(Serve(late="no-such", host=host, backend=backend))
    with pytest.raises(InputError, match="--no-key is given beside --key"):
        run(Serve(late="no-such", host=host, backend=backend, no_key=True, key="k"))


def test_where_a_key_may_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DRIFTLINE_KEY", raising=False)
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert key_of(Serve(late="L")) is None
    assert key_of(Serve(late="L", key="given")) == "given"
    monkeypatch.setenv("DRIFTLINE_KEY", "from-environment")
    assert key_of(Serve(late="L")) == "from-environment"
    assert key_of(Serve(late="L", key_file=file)) == "from-file"
    assert key_of(Serve(late="L", key="given")) == "given"
    with pytest.raises(InputError, match="give one"):
        key_of(Serve(late="L", key="given", key_file=file))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"two words", b"\xff\xfe", "ключ".encode(), b"a\nb", b"a\0b"])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, content: bytes):
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"--key-file .*key"):
        key_of(Serve(late="L", key_file=file))
    with pytest.raises(InputError, match="cannot be read"):
        key_of(Serve(late="L", key_file=tmp_path / "absent"))
