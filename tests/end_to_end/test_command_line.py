"""The commands as a user calls them: what they write, what they refuse, how they exit."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killing import called

from conftest import walk_weights

MakeRun = Callable[..., Path]
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def driftline(tmp_path: Path) -> Shell:
    return lambda *words: called([str(word) for word in words], tmp_path)


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(
        walk_weights(
            rng, list(range(0, 100, 10)), {"model.layers.0.up.weight": (40, 30), "model.norm.weight": (30,)}, drift=0.3
        )
    )


def refused(result: subprocess.CompletedProcess[str], complaint: str) -> None:
    """Exit code 2, one clear sentence on standard error, no traceback."""
    assert result.returncode == 2, result
    assert re.search(complaint, result.stderr), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_analyze_writes_all_three_results(driftline: Shell, run: Path, tmp_path: Path) -> None:
    result = driftline("analyze", run, "--out", "out")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "summary.json",
        "tensors.parquet",
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["steps"] == list(range(0, 100, 10))
    assert summary["verdict"]["sentence"] in result.stdout.replace("\n", " ")
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if "  " in line)


def test_analyze_takes_pairs_steps_base_and_filter(driftline: Shell, run: Path, tmp_path: Path) -> None:
    pairs = [f"{step}={run / f'checkpoint-{step}'}" for step in (10, 20, 30, 40, 50)]
    result = driftline(
        "analyze",
        *pairs,
        "--base",
        run / "checkpoint-0",
        "--steps",
        "0:40",
        "--filter",
        "paper",
        "--out",
        "out",
        "--quiet",
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["steps"] == [0, 10, 20, 30, 40]
    assert summary["filter"] == "paper"


def test_a_second_result_needs_overwrite(driftline: Shell, run: Path, tmp_path: Path) -> None:
    assert driftline("analyze", run, "--out", "out").returncode == 0
    before = (tmp_path / "out" / "summary.json").stat().st_mtime_ns
    refused(driftline("analyze", run, "--out", "out"), "--out out is not empty: .* add --overwrite")
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns == before
    assert driftline("analyze", run, "--out", "out", "--overwrite").returncode == 0
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns > before
    refused(driftline("analyze", run, "--out", run, "--overwrite"), "did not write")


def test_a_skipped_checkpoint_is_said(driftline: Shell, run: Path) -> None:
    (run / "checkpoint-90" / "model.safetensors").write_bytes(b"half")
    result = driftline("analyze", run, "--out", "out")
    assert result.returncode == 0
    assert "skipped step 90" in result.stderr
    assert "still being written" in result.stderr
    refused(driftline("analyze", run, "--out", "strict", "--strict"), "--strict refuses")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda run: [p.rename(p.with_name("x" + p.name)) for p in run.iterdir()], "holds no checkpoints: looked for"),
        (
            lambda run: [(run / f"checkpoint-{s}" / "model.safetensors").unlink() for s in range(20, 100, 10)],
            "2 usable checkpoints: a line needs at least 3",
        ),
        (
            lambda run: [(p / "model.safetensors").write_bytes(b"x" * 100) for p in run.iterdir()],
            "none of the 10 checkpoints can be read",
        ),
        (
            lambda run: [
                (p / "model.safetensors").write_bytes((run / "checkpoint-0" / "model.safetensors").read_bytes())
                for p in run.iterdir()
            ],
            "no weight changes",
        ),
    ],
    ids=["no checkpoints", "too few", "damaged", "unchanged"],
)
def test_bad_runs_are_refused_and_leave_nothing(
    driftline: Shell, run: Path, tmp_path: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    spoil(run)
    refused(driftline("analyze", run, "--out", "out"), complaint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_not_finite_weights_leave_nothing(
    driftline: Shell, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    weights = walk_weights(rng, [0, 10, 20, 30], {"w": (50,)})
    weights[20]["w"][7] = np.nan
    refused(
        driftline("analyze", make_run(weights), "--out", "out"),
        "tensor 'w' at step 20 holds a weight that is not finite",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["analyze", "absent", "--out", "out"], "absent does not exist"),
        (["inspect", "absent"], "absent does not exist"),
        (["analyse", "run", "--out", "out"], "'analyse' is no command: use analyze, or see driftline --help"),
        (["run"], "'run' is no command: choose analyze, inspect,"),
        (["analyze", "nosuch://bucket/run", "--out", "out"], "not known: nosuch"),
        (["train", "--out", "out", "--steps", "0"], "--steps is 0"),
        (["train", "--out", "out", "--model", "absent"], "no local folder"),
        (["train", "--out", "out", "--config", "absent.toml"], "--config absent.toml cannot be read"),
        (["train", "--out", "out", "--task", "no_such_task"], "'no_such_task' is unknown"),
        (["study", "speedups", "--out", "out"], "study 'speedups' is unknown: choose robustness"),
    ],
)
def test_bad_requests_are_refused(driftline: Shell, tmp_path: Path, arguments: list[str], complaint: str) -> None:
    refused(driftline(*arguments), complaint)
    assert list(tmp_path.iterdir()) == []


def test_unknown_commands_and_flags_exit_with_two(driftline: Shell, run: Path) -> None:
    for arguments in (
        ["analyze", run, "--out", "o", "--fliter", "paper"],
        ["analyze", run],
        ["analyze", run, "--out", "o", "--filter", "x"],
    ):
        result = driftline(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


def test_watch_prints_a_line_a_checkpoint_and_the_verdict(driftline: Shell, run: Path, tmp_path: Path) -> None:
    (run / "checkpoint-50" / "model.safetensors").write_bytes(b"half")
    result = driftline("watch", run, "--out", "out", "--once", "--settle", "0")
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip().startswith("driftline: skipped step 50: ")
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [f"step {step}" for step in range(0, 100, 10) if step != 50]
    assert re.fullmatch(
        r"step 90: update \S+, cosine \S+ \(\S+\), R² \S+ \(\S+\), skill ahead \S+, (linear|chance)", lines[-2]
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert lines[-1] == summary["verdict"]["sentence"]
    again = driftline("watch", run, "--out", "out", "--once", "--settle", "0", "--quiet")
    assert again.stdout.splitlines() == lines[-1:]
    refused(driftline("watch", "absent", "--out", "other", "--once"), "absent does not exist")
    refused(driftline("watch", run, "--out", "out", "--interval", "-1"), "--interval -1.0 is no time to wait")


def test_inspect_says_what_is_there(driftline: Shell, run: Path) -> None:
    record = json.loads(driftline("inspect", run, "--json").stdout)
    assert record["steps"] == list(range(0, 100, 10))
    assert record["layouts"] == ["huggingface"]
    text = driftline("inspect", run).stdout
    assert "10 checkpoints" in text
    assert "1,230 parameters in 2 tensors" in text


def test_reground_runs_the_command_and_keeps_its_exit_code(driftline: Shell, run: Path, tmp_path: Path) -> None:
    """A stand-in trainer that copies a model into {output} after so many steps; and one that fails."""
    settings = ["--model", run / "checkpoint-0", "--m", 10, "--n", 20, "--cycles", 2]
    fake = f"mkdir -p {{output}} && cp -r {run / 'checkpoint-10'} {{output}}/checkpoint-{{steps}}"
    result = driftline("reground", *settings, "--out", "re", "--", "sh", "-c", f"test -d {{model}} && {fake}")
    assert result.returncode == 0, result.stderr
    jumps = json.loads((tmp_path / "re" / "jumps.json").read_text())
    assert [jump["cycle"] for jump in jumps] == [1, 2]
    assert [jump["alpha"] for jump in jumps] == [3.0, 3.0]
    assert (tmp_path / "re" / "final" / "model.safetensors").is_file()
    failed = driftline("reground", *settings, "--out", "f", "--", "sh", "-c", "echo {model} {steps} {output}; exit 7")
    assert failed.returncode == 7, failed.stderr
    assert "Traceback" not in failed.stderr


def test_alone_it_shows_what_to_type_first(driftline: Shell) -> None:
    result = driftline()
    assert result.returncode == 0
    assert "driftline demo" in result.stdout
    assert driftline("--version").stdout.startswith("driftline 0.")


def test_backtest_writes_its_results_and_takes_an_analysis(driftline: Shell, run: Path, tmp_path: Path) -> None:
    assert driftline("analyze", run, "--out", "an").returncode == 0
    for name, extra in (("scanned", []), ("kept", ["--analysis", "an"])):
        result = driftline("backtest", run, "--out", name, *extra)
        assert result.returncode == 0, result.stderr
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "backtest.json",
            "groups.parquet",
            "report.html",
        ]
        record = json.loads((tmp_path / name / "backtest.json").read_text())
        assert record["sentence"] in result.stdout.replace("\n", " ")
    records = [json.loads((tmp_path / name / "backtest.json").read_text()) for name in ("scanned", "kept")]
    for record in records:
        record.pop("cost")
    assert records[0] == records[1]
    refused(driftline("backtest", run, "--out", "few", "--steps", "0:20"), "3 checkpoints: a back-test needs 3")
    refused(driftline("backtest", run, "--out", "an", "--overwrite"), "did not write")
    assert not (tmp_path / "few").exists()


def test_extrapolate_writes_a_model_and_says_why(driftline: Shell, run: Path, tmp_path: Path) -> None:
    result = driftline("extrapolate", run, "--to", "100", "--out", "model", "--dtype", "bfloat16", "--keep", "none")
    assert result.returncode == 0, result.stderr
    recipe = json.loads((tmp_path / "model" / "driftline.json").read_text())
    assert recipe["chosen"] in (result.stdout + result.stderr).replace("\n", " ")
    assert f"rounding lost {recipe['rounding_loss']:.2%} of the update (BF16, nearest)" in result.stdout
    assert recipe["kept"] == []
    refused(driftline("extrapolate", run, "--to", "110", "--out", "model"), "--out model is not empty")
    assert driftline("extrapolate", run, "--to", "110", "--out", "model", "--overwrite").returncode == 0
    several = driftline(
        "extrapolate", run, "--to", "110:130:10", "--from", "20", "90", "--method", "two-point", "--out", "s"
    )
    assert several.returncode == 0, several.stderr
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "checkpoint-110",
        "checkpoint-120",
        "checkpoint-130",
        "driftline.json",
    ]
    assert driftline("extrapolate", run, "--to", "110,120", "--out", "s", "--overwrite", "--quiet").returncode == 0
    assert not (tmp_path / "s" / "checkpoint-130").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--to", "50"], "--to 50 is not beyond the observed steps, 0 to 90"),
        (["--to", "abc"], "--to 'abc' is neither a step"),
        (["--alpha", "nan"], "--alpha nan is not a finite number"),
        (["--to", "120", "--method", "twopoint"], "did you mean two-point"),
        (["--to", "120", "--shard-size", "big"], "--shard-size 'big' is no size"),
        (["--to", "120", "--steps", "90"], "one checkpoint .* makes no line"),
        ([], "no target: say with --to"),
    ],
)
def test_bad_extrapolations_are_refused(
    driftline: Shell, run: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    refused(driftline("extrapolate", run, "--out", "out", *arguments), complaint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("again", "last"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_again_while_it_ends_it_shows_no_trace(first: signal.Signals, again: signal.Signals, last: int) -> None:
    """Which waits for a thread that works on."""
    script = f"""
import os, sys, threading, time
from driftline import cli
def work(*_):
    threading.Thread(target=time.sleep, args=(60,)).start()
    os.kill(os.getpid(), {int(first)})
    time.sleep(60)
cli._answer = work
threading._register_atexit(print, "ending", flush=True)
sys.argv = ["driftline", "inspect", "run"]
cli.main()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ending\n"
        process.send_signal(again)
        assert process.wait(30) == last
        assert process.stderr.read() == (b"driftline: stopped\n" if first == signal.SIGINT else b"")


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_while_writing_it_leaves_no_model(run: Path, tmp_path: Path, signal_: signal.Signals) -> None:
    """Stopped after the weights were written, before the folder is complete: a later call starts afresh."""
    code = f"""
import sys, time
import driftline.writing.write as write
write.copy_beside = lambda *rest: time.sleep(60)
from driftline.cli import main
sys.argv = ["driftline", "extrapolate", {str(run)!r}, "--method", "two-point", "--to", "120", "--out", "out"]
main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.partial-*/model.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal_)
    _, errors = process.communicate(timeout=30)
    assert process.returncode not in (0, 1)
    assert b"Traceback" not in errors
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"run"}
    if signal_ != signal.SIGKILL:  # nobody can clean up after that one; what is left is hidden and partial by name
        assert list(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize(
    "command",
    [
        "inspect",
        *(f"{each} --out out" for each in ("analyze", "backtest", "extrapolate --to 120", "watch --once --settle 0")),
    ],
)
def test_the_weight_path_is_light(run: Path, tmp_path: Path, command: str) -> None:
    """Neither what runs models, nor what takes longer to import than a small run to measure."""
    code = f"""
import sys
from driftline.cli import main
sys.argv = ["driftline", *{command.split()!r}, {str(run)!r}]
main()
assert not {{"torch", "transformers", "trl", "datasets", "pandas", "plotly", "scipy.linalg"}} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)


def test_a_terminal_obeys_nothing_that_a_sentence_quotes(tmp_path: Path) -> None:
    name = "a\x1b[31mred\x07"
    done = subprocess.run(
        [sys.executable, "-m", "driftline", "inspect", name], capture_output=True, cwd=tmp_path, text=True
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "a\\x1b[31mred\\x07" in done.stderr


def test_help_is_light(tmp_path: Path) -> None:
    code = """
import sys
from driftline.cli import main
sys.argv = ["driftline", "--help"]
try:
    main()
except SystemExit:
    pass
assert not {"numpy", "numba", "pyarrow", "jinja2", "torch"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_json_prints_the_record_and_nothing_else(driftline: Shell, run: Path, tmp_path: Path) -> None:
    analyzed = driftline("analyze", run, "--out", "a", "--json")
    assert json.loads(analyzed.stdout) == json.loads((tmp_path / "a" / "summary.json").read_text())
    written = driftline("extrapolate", run, "--analysis", "a", "--to", 200, "--out", "model", "--json")
    assert [record["target"] for record in json.loads(written.stdout)] == [200]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_options(driftline: Shell, shell: str) -> None:
    script = driftline("--tyro-print-completion", shell).stdout
    assert "extrapolate" in script
    assert "--shard-size" in script


@pytest.mark.slow
def test_train_starts_from_any_local_model_and_is_seeded(driftline: Shell, tmp_path: Path) -> None:
    """The second run starts from the first one's last checkpoint; equal seeds give equal weights."""
    settings = ["--steps", 2, "--save-every", 1, "--prompts-per-step", 2]
    assert driftline("train", "--out", "a", *settings).returncode == 0
    assert driftline("train", "--out", "b", *settings).returncode == 0
    last = [(tmp_path / name / "checkpoint-2" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert last[0] == last[1]
    assert driftline("train", "--out", "c", *settings, "--model", "a/checkpoint-2").returncode == 0
    first = (tmp_path / "c" / "checkpoint-0" / "model.safetensors").read_bytes()
    assert first == last[0]
    refused(driftline("train", "--out", "a", *settings), "--out a is not empty")
