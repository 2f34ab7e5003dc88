"""Tokenizers and settings beside a model that do not fit it, or that work much for little: a sentence, within bounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Regex, decoders
from tokenizers.models import BPE

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

from tiny_models import VOCABULARY, pair, save, tokenizer

from driftline import models, prompts
from driftline.decoding.sources import load_sampler
from driftline.errors import InputError
from driftline.models import limits_of, load_tokenizer
from driftline.outputs.rollouts import read_rollouts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model", pair()[1])


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_token_that_the_model_lacks(folder: Path, tmp_path: Path) -> None:
    words = tokenizer()
    words.add_tokens([AddedToken("more")])
    words.save_pretrained(folder)
    sampler = load_sampler(folder)
    prompt = prompts.encode({"prompt": "w3 more"}, sampler.tokenizer, "row 0")
    with pytest.raises(InputError, match=f"a prompt has token {VOCABULARY} and the model has {VOCABULARY}: put the"):
        sampler.sample([prompt.ids], max_new_tokens=2, seeds=[0])
    rows = tmp_path / "rollouts.jsonl"
    rows.write_text('{"prompt": "w3", "response": "w4 more"}\n')
    with pytest.raises(InputError, match=f"row 0, holds token {VOCABULARY} and the model has {VOCABULARY}: put the"):
        read_rollouts(rows, load_tokenizer(folder), limits=limits_of(folder))


@pytest.mark.parametrize("ends", [{"a": 1}, [[1]], "x", 1.5, True, [1, None, "2"], 10**30])
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_ends_that_are_no_tokens(ends: Any, name: str, folder: Path) -> None:
    edit(folder / name, eos_token_id=ends)
    if name == "config.json":
        (folder / "generation_config.json").unlink()
    with pytest.raises(InputError, match="eos_token_id"):
        load_sampler(folder)
    with pytest.raises(InputError, match="eos_token_id"):
        models.declared_ends(folder)


@pytest.mark.parametrize("positions", [0, -3, 10**30])
def test_positions_that_are_no_number_of_them(positions: int, folder: Path) -> None:
    edit(folder / "config.json", max_position_embeddings=positions)
    for opened in (load_sampler, limits_of):
        with pytest.raises(
            InputError, match=rf"model has max_position_embeddings = {positions} in its config\.json: mend"
        ):
            opened(folder)


def test_a_longest_text_that_is_no_number(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", model_max_length="x")
    with pytest.raises(
        InputError, match=r"model_max_length that is no number \('x'\): mend its tokenizer_config\.json"
    ):
        load_tokenizer(folder)


def test_what_loads_and_does_not_run(folder: Path) -> None:
    scaled = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2, "short_factor": [1], "long_factor": [1] * 10}
    edit(folder / "config.json", rope_parameters=scaled)
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        models.load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("decoder", "plainly"),
    [
        (decoders.ByteLevel(), True),
        (decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]), True),
        (decoders.Metaspace(), True),
        (decoders.WordPiece(), True),
        (None, True),
        (decoders.Replace(Regex("(x+x+)+y"), "a"), False),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace("", "x" * 10**6)]), False),
        (decoders.Replace("w", "x" * 10**6), False),
        (decoders.WordPiece("x" * 100), False),
    ],
    ids=str,
)
def test_which_decoders_run_here(decoder: Any, plainly: bool) -> None:
    words = tokenizer()
    words.backend_tokenizer.decoder = decoder
    assert prompts._decodes_plainly(words) is plainly
    assert "w7" in prompts.text_of(words, [7]) or not plainly or isinstance(decoder, decoders.ByteLevel)


def test_a_decoder_that_writes_without_end() -> None:
    words = tokenizer()
    words.backend_tokenizer.decoder = decoders.Replace("w", "x" * 10**7)
    with pytest.raises(InputError, match=r"the tokenizer cannot write out 87 tokens \(it takes more than 512 MiB"):
        prompts.text_of(words, list(range(3, 90)))


def test_a_decoder_that_raises() -> None:
    words = transformers.ByT5Tokenizer()
    words.add_tokens(["Ω"])
    with pytest.raises(InputError, match=r"the tokenizer cannot write out 1 tokens \(.+\): put that of this model"):
        prompts.text_of(words, [10**9])


def test_a_tokenizer_in_rust_that_gives_up(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its panic is no `Exception`, and it prints before it raises."""
    words = tokenizer()
    words.backend_tokenizer.model = BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])
    words.save_pretrained(folder)
    held = json.loads((folder / "tokenizer.json").read_text())
    edit(folder / "tokenizer.json", model={**held["model"], "continuing_subword_prefix": "<long>"})
    with pytest.raises(InputError, match=r"has no tokenizer that loads \(range end index .+\): save that of its model"):
        load_tokenizer(folder)
    assert capfd.readouterr().err == ""
