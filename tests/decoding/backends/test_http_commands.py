"""Commands that run models, on a server: what they write, print, and leave when they are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from api_servers import TOKENS, Fake, running

from driftline.cli import main
from driftline.evaluation.records import EvaluationRecord
from driftline.files.record import read_record


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """What a command line exits with."""
    monkeypatch.setattr(sys, "argv", ["driftline", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def evaluation(address: str, out: Path, *more: str) -> list[str]:
    asked = (
        f"--backend http --endpoint {address} --model fake --problems 4 --samples 2 --max-new-tokens {TOKENS} --quiet"
    )
    return ["evaluate", "--task", "sums", *asked.split(), "--out", str(out), *more]


def test_an_evaluation_says_who_answered_and_that_there_is_no_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with running(Fake(heeds_alpha=True).app) as address:
        secret = address.replace("//", "//user:hidden-word@")
        assert command(monkeypatch, *evaluation(secret, tmp_path / "late")) == 0
        plain = capsys.readouterr().out
        more = ["--alpha", "1.5", "--against", str(tmp_path / "late")]
        assert command(monkeypatch, *evaluation(secret, tmp_path / "forecast", *more)) == 0
    printed = capsys.readouterr().out
    record = read_record(tmp_path / "forecast" / "evaluation.json", EvaluationRecord, what="driftline evaluate")
    assert (record.backend, record.endpoint, record.late, record.alpha) == ("http", address, "fake", 1.5)
    assert "control" not in record
    assert record.versions["openai"]
    assert record.against
    assert f"fake, run by {address}" in " ".join(printed.split())
    assert "no control" in printed
    assert "against" in printed
    assert "no control" not in plain
    written = "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert not any(secret in text for text in (written, printed) for secret in ("very-secret", "hidden-word"))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--early", "A", "--late", "B", "--alpha", "2"], "--late is a model to run here"),
        (["--beside", "A"], "--beside is a model to run here"),
        (["--dtype", "float32"], "--dtype float32 is of models that run here"),
        (["--alpha", "inf"], "--alpha inf is not a finite number"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--tokenizer", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_what_does_not_go_with_a_server_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    sentence: str,
) -> None:
    assert command(monkeypatch, *evaluation("http://127.0.0.1:9/v1", tmp_path / "out", *flags)) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_interrupted_ends_at_once_and_goes_on(tmp_path: Path) -> None:
    def slow_from_the_tenth(body: dict[str, Any]) -> float:
        return 600.0 if body["max_tokens"] == TOKENS and int(str(body["prompt"])[1:]) >= 40 else 0.0

    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{30 + i}"}) + "\n" for i in range(20)))
    fake = Fake(seconds=slow_from_the_tenth)
    with running(fake.app) as address:
        words = f"--backend http --endpoint {address} --model fake --max-new-tokens {TOKENS} --batch-size 4"
        called = [sys.executable, "-m", "driftline", "generate", "--prompts", str(prompts), "--out", str(out)]
        asking = subprocess.Popen([*called, *words.split()], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        try:
            until = time.monotonic() + 120
            while not (out.exists() and out.read_text().count("\n") >= 10 and fake.at_once == 4):
                assert time.monotonic() < until
                assert asking.poll() is None
                time.sleep(0.05)
            asking.send_signal(signal.SIGINT)
            _, said = asking.communicate(timeout=60)  # it waits for no answer
        finally:
            asking.kill()
        assert asking.returncode == 130
        assert said.splitlines()[-1] == "driftline: stopped"
        assert "Traceback" not in said
        assert out.read_text().count("\n") == 10
        until = time.monotonic() + 60
        while fake.at_once and time.monotonic() < until:  # the server was told
            time.sleep(0.05)
        assert fake.at_once == 0
        fake.seconds = lambda body: 0.0
        again = subprocess.run([*called, *words.split()], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert "20 completions, 10 of them new" in again.stdout
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == list(range(20))
