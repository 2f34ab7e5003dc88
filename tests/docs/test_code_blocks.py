"""Each code block of the documentation is run, or says in the page why it is not.

Commands that read a run are executed on a small generated one. Those that train, sample or serve are parsed by the real
command line, so that each option in the documentation exists. Python blocks are executed. A block that none of this can
be done to has `<!-- not run: reason -->` above it.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from blocks import PAGES, ROOT, Block, blocks, inline_commands, parse

import driftline
from conftest import save_tensors, walk_weights
from driftline import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ALL = [block for page in PAGES for block in blocks(page)]
_READS_A_RUN = {"inspect", "analyze", "backtest", "extrapolate", "compare"}
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LANGUAGES = {"sh", "python", "text", "json", "toml", "bibtex"}


_EXAMPLES = ROOT / "CONTRIBUTING.md"  # whose Python blocks build on each other, and so are one test


def of(language: str) -> list[Any]:
    chosen = [b for b in _ALL if b.language == language and b.reason is None]
    return [pytest.param(b, id=b.name) for b in chosen if language != "python" or b.page != _EXAMPLES]


def test_every_block_says_what_it_is_and_every_exception_why() -> None:
    assert [b.name for b in _ALL if b.language not in _LANGUAGES] == []
    assert [b.name for b in _ALL if b.reason is not None and len(b.reason.split()) < 3] == []
    markers = sum(
        len(re.findall(r"^\s*<!-- not run", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES
    )
    assert markers == sum(b.reason is not None for b in _ALL), "a marker belongs right above its block"
    for block in _ALL:
        if block.language in ("json", "toml"):
            assert json.loads(block.code) if block.language == "json" else tomllib.loads(block.code)


def test_the_api_page_has_every_public_name() -> None:
    shown = re.findall(r"^::: driftline\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(set(driftline.__all__) - {"__version__"})


@pytest.mark.parametrize("block", of("sh"))
def test_every_command_and_option_exists(block: Block) -> None:
    for words in block.commands:
        _exists(words)


def _exists(words: list[str]) -> None:
    """Refuse a command that cannot be checked; it wants a marker."""
    match words:
        case ["driftline"]:
            pass
        case ["driftline", "--tyro-print-completion", *_]:
            pass  # its own test: tests/end_to_end
        case ["driftline", *rest] | ["accelerate", "launch", "-m", "driftline", *rest]:
            parse([word for word in rest if word != "..."])
        case ["make", *targets]:
            known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            assert {t for t in targets if "=" not in t} <= known
        case ["python" | ".venv/bin/python", "-m", module, *_]:
            assert (ROOT / "src" / Path(*module.split("."))).with_suffix(".py").is_file()
        case ["python" | ".venv/bin/python", file, *_]:
            assert (ROOT / file).is_file()
        case ["pip" | ".venv/bin/pip", "install", *wanted]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = [extra for word in wanted for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")]
            assert set(named) <= set(extras)
        case ["source" | "mkdir" | "cd" | "ray", *_]:
            pass
        case _:
            raise AssertionError(f"{' '.join(words)}: mark the block as not run, with the reason")


@pytest.mark.parametrize("page", [pytest.param(p, id=p.name) for p in PAGES if inline_commands(p)])
def test_commands_in_the_text_have_options_that_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _, command, *words in inline_commands(page):
        if "--out" in words:
            parse([command, *words])
        else:  # a mention, not a whole command
            with pytest.raises(SystemExit):
                parse([command, "--help"])
            known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
            assert {w.partition("=")[0] for w in words if w.startswith("--")} <= known


def _write_run(folder: Path, steps: list[int], rng: np.random.Generator) -> None:
    names = [f"model.layers.{k}.{module}.weight" for k in range(2) for module in ("mlp.down_proj", "self_attn.q_proj")]
    weights = walk_weights(rng, steps, dict.fromkeys(names, (24, 16)), drift=0.5)
    for step, tensors in weights.items():
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        save_tensors(checkpoint / "model.safetensors", tensors)
        (checkpoint / "config.json").write_text(json.dumps({"model_type": "test"}))
        history = [{"step": s, "learning_rate": 1e-5} for s in range(1, step + 1)]
        (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": history, "logging_steps": 1}))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages name: RUN, the demo's run and its analysis, and some models."""
    here = tmp_path_factory.mktemp("house")
    rng = np.random.default_rng(7)
    _write_run(here / "RUN", list(range(0, 1100, 100)), rng)
    _write_run(here / "driftline-demo" / "run", list(range(0, 160, 10)), rng)
    _write_run(here / "walk", list(range(0, 160, 10)), rng)
    shutil.copytree(here / "RUN", here / "WITHOUT-0", ignore=lambda _, names: {"checkpoint-0"} & set(names))
    for name in ("base", "MODEL", "path/to/base-model"):
        shutil.copytree(here / "RUN" / "checkpoint-0", here / name)
    for name, step in (("a/x", 100), ("b/y", 200)):
        shutil.copytree(here / "RUN" / f"checkpoint-{step}", here / name)
    with _inside(here):
        for out in ("driftline-demo/analysis", "DIR1", "DIR2"):
            _run(["analyze", "driftline-demo/run", "--out", out])
    return here


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)


def _run(words: list[str]) -> None:
    """`driftline WORDS` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["driftline", *words])
        cli.main()


def _executable(block: Block) -> bool:
    return all(w[0] == "driftline" and len(w) > 1 and _reads_a_run(w[1:]) for w in block.commands)


def _reads_a_run(words: list[str]) -> bool:
    """Here and now: not on a cluster, not from an address, without a model."""
    here = not any("://" in word for word in words)
    return here and words[0] in _READS_A_RUN and not {"--rollouts", "--engine", "..."} & set(words)


@pytest.mark.parametrize(
    "block",
    [b for b in of("sh") if any(w[0] == "driftline" and _reads_a_run(w[1:] or [""]) for w in b.values[0].commands)],
)
def test_commands_that_read_a_run_do_what_they_say(
    block: Block, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of one block in their order; a placeholder that names an output stands for a fresh folder each time."""
    fresh: set[str] = set()
    with _inside(house):
        for _, *words in [w for w in block.commands if w[0] == "driftline" and _reads_a_run(w[1:] or [""])]:
            words = [
                "2000" if word == "STEP" else "WITHOUT-0" if word == "RUN" and "--base" in words else word
                for word in words
            ]
            out = words[words.index("--out") + 1] if "--out" in words else None
            if out is not None and (out not in fresh or out in ("DIR", "MODEL")):
                shutil.rmtree(out, ignore_errors=True)
                fresh.add(out)
            if "--analysis" in words and not Path(measured := words[words.index("--analysis") + 1]).exists():
                _run(["analyze", "RUN", "--out", measured])
            _run(words)
            assert out is None or any(Path(out).iterdir())
            if out == "MODEL":
                shutil.rmtree(out)
                shutil.copytree("base", out)
    assert capsys.readouterr().out.strip()


def test_every_key_of_a_result_is_defined(house: Path) -> None:
    """Keys of real results stand in `docs/outputs.md`; those that name steps, tensors or methods are data."""
    page = _FENCED.sub("", (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8"))
    defined = {part for code in re.findall(r"`([^`]+)`", page) for part in (code, *code.split("."))}
    with _inside(house):
        _run(["backtest", "driftline-demo/run", "--analysis", "driftline-demo/analysis", "--out", "keys-backtest"])
        _run(["extrapolate", "driftline-demo/run", "--to", "170", "--method", "blup", "--out", "keys-model"])
        results = [
            json.loads(Path(file).read_text())
            for file in (
                "driftline-demo/analysis/summary.json",
                "keys-backtest/backtest.json",
                "keys-model/driftline.json",
            )
        ]
    keys = {key for result in results for key in _keys(result)}
    assert len(keys) > 60
    assert keys - defined == set()


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if not re.fullmatch(r"[\d.]+", key):
                yield key
                if key not in {"skipped", "left_out", "methods", "horizons", "coefficients", "distinct_values"}:
                    yield from _keys({} if key == "pooled" else item)
    elif isinstance(value, list) and value:
        yield from _keys(value[0])


class _Trainer:
    """Stands in for a trainer that a snippet constructs: the callbacks are real, the rest is `...`."""

    def __init__(self, *elided: Any, callbacks: list[Any]) -> None:
        self.callbacks = callbacks


def _names(block: Block) -> dict[str, Any]:
    """What a snippet takes for granted."""
    if "GRPOTrainer" in block.code:
        return {"GRPOTrainer": _Trainer}
    if "late.generate" in block.code:
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        config = Qwen2Config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            eos_token_id=None,
            bos_token_id=None,
            pad_token_id=0,
        )
        early, late = (Qwen2ForCausalLM(config).eval() for _ in range(2))
        ids = torch.tensor([[5, 6, 7], [0, 8, 9]])
        batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        return {"early": early, "late": late, "batch": batch, "tokenizer": type("Tokenizer", (), {"pad_token_id": 0})}
    return {}


@pytest.mark.parametrize("block", of("python"))
def test_python_runs(block: Block, house: Path) -> None:
    code = block.code.replace("1_000_000", "20_000")  # smaller walks, the same code
    names = _names(block)
    with _inside(house):
        exec(compile(code, block.name, "exec"), names)
    if "GRPOTrainer" in names:
        assert len(names["trainer"].callbacks) == code.count("Callback(")


def test_worked_examples_pass_their_own_tests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The layout, the extrapolator and the task of CONTRIBUTING, each with the test that stands there."""
    from driftline.checkpoints import layouts
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.forecast import extrapolators

    names: dict[str, Any] = {**vars(extrapolators), "__name__": "contributing", "open_trajectory": open_trajectory}
    ran = set()
    for block in blocks(_EXAMPLES):
        if block.language == "python":
            exec(compile(block.code, block.name, "exec"), names)
            if "NAME" in names and "layout" not in ran:
                layout = SimpleNamespace(**{name: names[name] for name in ("NAME", "holds", "open")})
                known = layouts.all_layouts()
                monkeypatch.setattr(layouts, "all_layouts", lambda first=layout, known=known: (first, *known))
                ran.add("layout")
                names.pop("open")  # the module's own, not a test's
        for name in [name for name in names if name.startswith("test_") and name not in ran]:
            needed = inspect.signature(names[name]).parameters
            names[name](*(request.getfixturevalue(fixture) for fixture in needed))
            shutil.rmtree(tmp_path / "run", ignore_errors=True)  # make_run makes it anew
            ran.add(name)
    assert len(ran) == 5


@pytest.mark.slow
def test_the_stand_in_trainer_takes_what_the_real_one_does() -> None:
    from trl import GRPOTrainer

    assert "callbacks" in inspect.signature(GRPOTrainer).parameters
