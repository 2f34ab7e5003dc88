"""Configurations that ask for models, tables and adapters which their weights do not account for: none of it is made."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

from tiny_models import pair, save

from driftline import models, rehearsal
from driftline.decoding.adapter import load_adapted
from driftline.errors import InputError

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
OLD = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "rotary_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "gptj": OLD,
    "mixtral": {**SMALL, "num_local_experts": 2, "num_key_value_heads": 2},
    "jamba": {**SMALL, "num_experts": 2, "num_key_value_heads": 2, "mamba_dt_rank": 2},
    "mamba2": {**SMALL, "state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "expand": 2, "chunk_size": 8},
    "mpt": {"vocab_size": 40, "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 32},
    "gpt_neo": {**SMALL, "num_layers": 2, "num_heads": 2, "attention_types": [[["global"], 2]]},
}
HANGS = "(([a-z_.0-9]+)*)*!"  # no name ends so, which is found out in time that doubles with each letter


def saved(folder: Path, family: str) -> Path:
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def mended(folder: Path, name: str, **changes: Any) -> None:
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**values, **changes}))


@contextmanager
def bounded(seconds: float = 6, mebibytes: int = 1024) -> Iterator[None]:
    """So many seconds of the processor, here and in children; so much memory beyond what there is."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (mebibytes << 20), limits[1]))
    began = sum(os.times()[:4])
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert sum(os.times()[:4]) - began < seconds


def test_bounds_are_bounds() -> None:
    with bounded(), pytest.raises(MemoryError):
        bytearray(2 << 30)
    with pytest.raises(AssertionError), bounded(seconds=0.01):
        sum(range(10**7))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"num_hidden_layers": 10**5, "layer_types": None}),
        ("llama", {"vocab_size": 10**9}),
        ("llama", {"hidden_size": 10**6, "num_attention_heads": 10}),
        ("gptj", {"n_positions": 10**8}),
        ("gptj", {"n_layer": 10**7}),
        ("gpt_neo", {"max_position_embeddings": 10**5}),
        ("mixtral", {"num_local_experts": 10**6}),
        ("jamba", {"num_experts": 10**6}),
        ("mamba2", {"chunk_size": 10**7}),
        ("mpt", {"n_heads": 10**7}),
        ("mpt", {"max_seq_len": 10**9}),
    ],
    ids=str,
)
def test_what_the_weights_do_not_account_for_is_not_made(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", family)
    models.load_model(folder, device="cpu")  # which imports all that it needs
    mended(folder, "config.json", **changes)
    with bounded(), pytest.raises(InputError, match=r"config\.json asks for .*: (give the folder|mend)"):
        models.load_model(folder, device="cpu")


def test_what_only_the_configuration_is_of_has_bounds_too(tmp_path: Path) -> None:
    """It may hold a list with an entry for each layer."""
    folder = saved(tmp_path / "model", "qwen2")
    mended(folder, "config.json", num_hidden_layers=10**9, layer_types=None)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    loading: list[Callable[..., Any]] = [models.load_model, models.load_tokenizer, models.limits_of]
    for load in loading:
        with bounded(), pytest.raises(InputError, match="asks for a model whose making takes more than"):
            load(folder)


def test_a_model_of_another_layout_is_held_to_its_tensors(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "llama")
    holds = sum(value.numel() for value in models.load_model(folder, device="cpu").parameters())
    made = models.model_of(folder, dtype="float32", holds=holds, device="cpu")
    assert sum(value.numel() for value in made.parameters()) == holds
    for changes in ({"vocab_size": 10**9}, {"num_hidden_layers": 10**9, "layer_types": None}):
        with bounded(), pytest.raises(InputError, match=f"{folder}/config.json asks for a model"):
            models.model_of(folder, dtype="float32", holds=holds, device="cpu", changed=partial(dict, **changes))


def test_a_model_in_the_hubs_cache_has_bounds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--owner--model"
    folder = saved(repository / "snapshots" / ("a" * 40), "llama")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert models.load_model("owner/model", device="cpu").config.num_hidden_layers == 2
    mended(folder, "config.json", num_hidden_layers=10**9, layer_types=None)
    with bounded(), pytest.raises(InputError, match=r"owner/model/config\.json asks for a model whose making takes"):
        models.load_model("owner/model", device="cpu")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapted")
    base = save(folder / "base", pair()[0])
    model = pair()[0]
    model.name_or_path = str(base)
    peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(str(folder / "adapter"))
    load_adapted(folder / "adapter", device="cpu")
    return folder / "adapter"


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 10**7},
        {"rank_pattern": {"q_proj": 10**7}},
        {"target_modules": HANGS},
        {"exclude_modules": HANGS},
        {"rank_pattern": {HANGS: 4}},
        {"alpha_pattern": {HANGS: 4}},
        {"layers_to_transform": [0], "layers_pattern": HANGS},
        {"modules_to_save": [HANGS]},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**9, "task_type": "CAUSAL_LM"},
        {"peft_type": "VERA", "r": 10**8, "projection_prng_key": 0},
    ],
    ids=lambda changes: " ".join(changes),
)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_asks_for_more(
    changes: dict[str, Any], adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "_SECONDS", 1.5)
    folder = Path(shutil.copytree(adapted, tmp_path / "adapter"))
    mended(folder, "adapter_config.json", **changes)
    with bounded(), pytest.raises(InputError, match=r"adapter"):
        load_adapted(folder, device="cpu")


def test_an_adapter_imports_nothing(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """peft imports the module that an adapter names as Megatron's."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = Path(shutil.copytree(adapted, tmp_path / "adapter"))
    mended(folder, "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil")
    with pytest.raises(InputError, match="megatron_config"):
        load_adapted(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 8}},
        {"target_modules": r".*\.(q|k)_proj"},
        {"trainable_token_indices": [1, 2]},
    ],
    ids=lambda given: next(iter(given)),
)
@pytest.mark.filterwarnings("ignore")
def test_honest_adapters_load(given: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = save(tmp_path / "base", pair()[0])
    model = pair()[0]
    model.name_or_path = str(base)
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **given})
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    assert load_adapted(tmp_path / "adapter", device="cpu")[0].adapter == "late"
