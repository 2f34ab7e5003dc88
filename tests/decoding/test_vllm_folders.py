"""Any checkpoint as a folder that vLLM loads: its own, or a whole copy whose weights are exactly the model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_adapter import adapter
from tiny_models import pair, save
from transformers import AutoModelForCausalLM

from driftline.checkpoints.trajectory import open_trajectory
from driftline.decoding.vllm.folders import model_folder
from driftline.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it


def test_a_saved_model_is_its_own_folder(tmp_path):
    folder = save(tmp_path / "model", pair()[0])
    with model_folder(folder) as found:
        assert found == folder
    with model_folder(open_trajectory([f"0={folder}"]).checkpoints[0]) as found:
        assert found == folder


def test_a_state_dict_is_written_as_a_model_and_gone_afterwards(tmp_path):
    model = pair()[0]
    folder = save(tmp_path / "model", model)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    opened = open_trajectory([f"0={folder}"]).checkpoints[0]
    for source in (folder, str(folder), opened):
        with model_folder(source) as found:
            assert found != folder
            loaded = AutoModelForCausalLM.from_pretrained(found)
            assert (found / "tokenizer.json").is_file()
        assert not found.exists()
        for name, weights in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weights), name


def test_an_adapter_is_written_with_its_base(tmp_path):
    pytest.importorskip("peft")
    base = save(tmp_path / "base", pair()[0])
    merged = adapter(tmp_path / "late", base, 1).state_dict()
    with model_folder(tmp_path / "late") as found:
        written = load_file(found / "model.safetensors")
        assert written.keys() == merged.keys()
        for name, weights in written.items():
            torch.testing.assert_close(weights, merged[name], rtol=0, atol=1e-6)
        changed = [name for name, weights in written.items() if not torch.equal(weights, pair()[0].state_dict()[name])]
        assert len(changed) == 4  # q_proj and down_proj of two layers
        assert not (found / "adapter_config.json").exists()


def test_an_adapter_of_a_rounded_base_keeps_what_rounding_would_take(tmp_path):
    pytest.importorskip("peft")
    base = save(tmp_path / "base", pair()[0].bfloat16())
    adapter(tmp_path / "late", base, 1)
    with model_folder(tmp_path / "late", dtype="float32") as found:
        assert {weights.dtype for weights in load_file(found / "model.safetensors").values()} == {torch.float32}
        assert json.loads((found / "config.json").read_text())["dtype"] == "float32"
    with model_folder(tmp_path / "late") as found:
        assert {weights.dtype for weights in load_file(found / "model.safetensors").values()} == {torch.bfloat16}


def test_what_is_no_model_is_refused(tmp_path):
    for wrong, why in (("./missing", "does not exist"), ("a/b/c", "does not exist"), ("x.gguf", "GGUF")):
        with pytest.raises(InputError, match=why), model_folder(wrong):
            pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError), model_folder(tmp_path / "empty"):
        pass
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError), model_folder(Path(lone)):
        pass
