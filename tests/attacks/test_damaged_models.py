"""Model folders damaged in every file that transformers reads: a sentence each, or a model; never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

from tiny_models import pair, tokenizer

from driftline import models
from driftline.errors import InputError, in_one_sentence

CONFIGS: dict[str, Any] = {
    "hidden_size": ["three", -1, 0, None, 7, 10**30, [4], 1.5, "9" * 30],
    "num_attention_heads": [0, -2, 3, "x"],
    "num_key_value_heads": [0, 5],
    "num_hidden_layers": [-1, "x", 10**9],
    "vocab_size": [-5, 0, 10**12, "x"],
    "model_type": ["no-such", 7, None, "vision-encoder-decoder", "../qwen2"],
    "architectures": [7, [7], ["NoSuch"]],
    "auto_map": [{"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, 7],
    "quantization_config": [{"quant_method": "gptq", "bits": 4}, {"quant_method": "no-such"}, 7, {}],
    "attn_implementation": ["flash_attention_2"],
    "_attn_implementation": ["flash_attention_2", "no-such"],
    "rope_parameters": [{"rope_type": "no-such"}, 7, {"rope_type": "yarn"}],
    "hidden_act": ["no-such", 7],
    "torch_dtype": ["no-such", 7],
    "dtype": ["float7", "os"],
    "tie_word_embeddings": ["x"],
    "layer_types": [["no-such"], 7],
    "text_config": [7],
}
FILES: dict[str, list[bytes]] = {
    "config.json": [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"a":' * 10000,
        b'{"hidden_size": ' + b"9" * 5000 + b"}",
    ],
    "generation_config.json": [
        b"",
        b"[]",
        b"7",
        b'{"eos_token_id": "x"}',
        b'{"eos_token_id": [[1]]}',
        b'{"temperature": "x"}',
    ],
    "tokenizer.json": [b"", b"{", b"[]", b"7", b"{}", b'{"model": 7}', b'{"version": "1.0", "model": {"type": "BPE"}}'],
    "tokenizer_config.json": [
        b"",
        b"[]",
        b"7",
        b'{"tokenizer_class": "NoSuch"}',
        b'{"tokenizer_class": 7}',
        b'{"pad_token": 7}',
        b'{"added_tokens_decoder": 7}',
        b'{"added_tokens_decoder": {"x": {}}}',
        b'{"chat_template": 7}',
    ],
    "model.safetensors": [b"", b"\0" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x08\0\0\0\0\0\0\0" + b'{"a": 7}'],
    "model.safetensors.index.json": [
        b"{",
        b"[]",
        b'{"weight_map": 7}',
        b'{"weight_map": {"a": "../../x"}}',
        b'{"weight_map": {"a": 7}}',
    ],
    "chat_template.jinja": [b"\xff\xfe", b"{% for"],
    "special_tokens_map.json": [b"7", b'{"eos_token": 7}'],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    pair()[1].save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


LOADING: list[Callable[[Path], Any]] = [
    lambda folder: models.load_model(folder, device="cpu"),
    models.load_tokenizer,
    models.limits_of,
    models.declared_ends,
]


def sentences(folder: Path) -> list[str]:
    """What each way to load it says; only an InputError may be raised."""
    said = []
    for load in LOADING:
        try:
            load(folder)
        except InputError as error:
            said.append(str(error))
    assert all("\n" not in sentence and len(sentence) < 1000 and str(folder) in sentence for sentence in said), said
    return said


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in CONFIGS.items() for value in values])
def test_a_value_of_the_configuration(key: str, value: Any, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    sentences(folder)


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, several in FILES.items() for content in several]
)
def test_a_whole_file(name: str, content: bytes, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    if name == "model.safetensors.index.json":
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    found = sentences(folder)
    if name in ("config.json", "model.safetensors", "model.safetensors.index.json"):
        assert found


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_pipe_in_the_place_of_a_file(name: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert len(sentences(folder)) == len(LOADING)


@pytest.mark.parametrize("named", ["../other/model.safetensors", "{other}/model.safetensors"])
def test_weights_of_another_folder_are_not_read(named: str, whole: Path, tmp_path: Path) -> None:
    """Through an index: a name that leads up, and a whole path, to a file that is there."""
    folder, other = (Path(shutil.copytree(whole, tmp_path / name)) for name in ("model", "other"))
    (folder / "model.safetensors").unlink()
    with safe_open(other / "model.safetensors", "np") as opened:
        index = {"metadata": {}, "weight_map": dict.fromkeys(opened.keys(), named.format(other=other))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="which is outside its folder"):
        models.load_model(folder, device="cpu")


def test_the_whole_trace_is_for_who_asks(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    sentences(folder)
    assert "Traceback" not in "".join(capsys.readouterr())
    monkeypatch.setenv("DRIFTLINE_DEBUG", "1")
    sentences(folder)
    assert "Traceback" in capsys.readouterr().err


def test_a_panic_of_a_library_in_rust_is_a_sentence() -> None:
    """Which is no `Exception`; what stops the program is none either, and stays what it is."""
    panic = type("PanicException", (BaseException,), {})
    said = r"^it cannot be read \(index out of bounds\): mend it$"
    with pytest.raises(InputError, match=said), in_one_sentence("it cannot be read", "mend it"):
        raise panic("index out of bounds\nand more")
    with pytest.raises(KeyboardInterrupt), in_one_sentence("it cannot be read", "mend it"):
        raise KeyboardInterrupt
