"""What is refused of `serve --backend vllm` before an engine starts, and the command line that starts one; no vLLM needed."""

from __future__ import annotations

import json
import socket
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from tiny_models import VOCABULARY, pair, save, tokenizer
from transformers import (
    AutoConfig,
    BertConfig,
    MambaConfig,
    PreTrainedConfig,
    Qwen2VLConfig,
    Qwen3NextConfig,
    T5Config,
)

from driftline import cli
from driftline.commands import serve as serve_command
from driftline.decoding.sources import load_sampler
from driftline.decoding.vllm import launch
from driftline.decoding.vllm.arguments import options, refuse_options
from driftline.decoding.vllm.checks import decoder_of, pair_overrides
from driftline.errors import InputError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    early, late = pair()
    return save(tmp_path / "early", early), save(tmp_path / "late", late)


def test_two_of_one_run_are_a_pair(folders):
    early, late = folders
    overrides, context = pair_overrides(early, late, 1.5)
    assert context is None
    assert overrides == {
        "architectures": ["ExtrapolatedForCausalLM"],
        "vocab_size": VOCABULARY,
        "driftline": {
            "early": str(early),
            "alpha": 1.5,
            "architectures": {"early": "Qwen3ForCausalLM", "late": "Qwen3ForCausalLM"},
        },
    }


def test_padding_is_left_out_by_both_paths(tmp_path, folders):
    early, late = folders
    wider = []
    for name, model, more in zip(("early", "late"), pair(), (61, 125), strict=True):
        model.resize_token_embeddings(VOCABULARY + more, mean_resizing=False)
        model.lm_head.weight.data[VOCABULARY:] = 50.0  # would win each time
        wider.append(save(tmp_path / "wider" / name, model))
    whole = load_sampler(late, early=early, alpha=1.5).sample([[5, 6]], temperature=0, max_new_tokens=8, seeds=[0])
    for first, last in ((early, wider[1]), (wider[0], late), wider):
        assert pair_overrides(first, last, 1.5)[0]["vocab_size"] == VOCABULARY
        found = load_sampler(last, early=first, alpha=1.5).sample([[5, 6]], temperature=0, max_new_tokens=8, seeds=[0])
        assert found == whole


def test_more_than_padding_is_refused_by_both_paths(tmp_path, folders):
    cut = pair()[0]
    cut.resize_token_embeddings(VOCABULARY - 5)
    save(tmp_path / "cut", cut)
    for refuse in (
        lambda: pair_overrides(tmp_path / "cut", folders[1], 1.5),
        lambda: load_sampler(folders[1], early=tmp_path / "cut", alpha=1.5),
    ):
        with pytest.raises(InputError, match=f"{VOCABULARY} logits and the early one {VOCABULARY - 5}, of a tokenizer"):
            refuse()


def test_other_tokenizers_are_refused(tmp_path, folders):
    save(tmp_path / "other", pair()[0], tokenizer(words=VOCABULARY - 1))
    with pytest.raises(InputError, match="different vocabularies"):
        pair_overrides(tmp_path / "other", folders[1], 1.5)


def test_two_windows_of_attention_are_refused(folders):
    early, late = folders
    config = json.loads((early / "config.json").read_text())
    (early / "config.json").write_text(json.dumps(config | {"use_sliding_window": True, "sliding_window": 16}))
    with pytest.raises(InputError, match=r"sliding_window of .* is 16 and of .* None, and vLLM has one for both"):
        pair_overrides(early, late, 1.5)
    for folder in folders:
        (folder / "config.json").write_text(json.dumps(config | {"use_sliding_window": False, "sliding_window": 16}))
    pair_overrides(early, late, 1.5)


def test_the_shorter_context_of_the_early_model_is_the_pairs(tmp_path, folders):
    short = pair(max_position_embeddings=48)[0]
    save(tmp_path / "short", short)
    assert pair_overrides(tmp_path / "short", folders[1], 1.5)[1] == 48
    assert load_sampler(folders[1], early=tmp_path / "short", alpha=1.5).context == 48

    def words(*rest: str) -> list[str]:
        served = launch.Served(late="l", early="e", alpha=1.5, rest=rest)
        return launch.command(served, folders[1], tmp_path / "short", 1)

    assert "48" in words()
    assert words("--max-model-len", "32")[-2:] == ["--max-model-len", "32"]
    for too_long in ("49", "1k", "auto"):
        with pytest.raises(InputError, match="give at most 48"):
            words("--max-model-len", too_long)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (T5Config(architectures=["T5ForConditionalGeneration"]), "encoder with a decoder"),
        (Qwen2VLConfig(architectures=["Qwen2VLForConditionalGeneration"]), "takes more than text"),
        (BertConfig(architectures=["BertModel"]), "draws no tokens"),
        (AutoConfig.for_model("qwen2", architectures=["Qwen2ForSequenceClassification"]), "draws no tokens"),
        (MambaConfig(architectures=["MambaForCausalLM"]), "carries a state"),
        (Qwen3NextConfig(architectures=["Qwen3NextForCausalLM"]), "carries a state"),
        (
            AutoConfig.for_model(
                "qwen2", architectures=["Qwen2ForCausalLM"], quantization_config={"quant_method": "fp8"}
            ),
            "is quantised",
        ),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_kinds_that_are_not_decoded_in_pairs_are_refused(config, why):
    with pytest.raises(InputError, match=why):
        decoder_of(config, Path("model"))


def test_a_model_that_names_no_architecture_is_known_by_its_type():
    assert decoder_of(AutoConfig.for_model("llama", architectures=None), Path("model")) == "LlamaForCausalLM"


@pytest.mark.parametrize(
    "option", ["--host", "--port=1", "--api-key", "--api_key", "--served-model-name", "--dtype", "--model"]
)
def test_what_driftline_sets_is_refused_after_the_dashes(option):
    for two in (True, False):
        with pytest.raises(InputError, match="cannot be given after --"):
            refuse_options([option, "x"], pair=two)


@pytest.mark.parametrize(
    "given",
    [
        ["--hf-overrides", "{}"],
        ["--hf-overrides.vocab_size", "5"],
        ["--logits_processors", "x:Y"],
        ["--speculative-config", "{}"],
        ["--speculative-config.method=ngram"],
        ["-sc", "{}"],
        ["--spec-method", "ngram"],
        ["--specul", "{}"],
        ["--quantization", "fp8"],
        ["-q", "fp8"],
        ["--enable-lora"],
        ["--pipeline-parallel-size", "2"],
        ["--pipeline_parallel_size=2"],
        ["-pp", "2"],
        ["--runner", "pooling"],
        ["--load-format=gguf"],
        ["--trust-remote-code"],
        ["--max-num-seqs", "4", "--enable-prompt-embeds"],
    ],
)
def test_what_a_pair_cannot_have_is_refused(given):
    with pytest.raises(InputError, match="cannot be given after --"):
        refuse_options(given, pair=True)
    refuse_options(given, pair=False)


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--max-model-len", "1024", "--enforce-eager"],
        ["--tensor-parallel-size=2", "-tp", "2"],
        ["-pp", "1"],
        ["--enable-prefix-caching"],
        ["--compilation-config.mode", "3"],
        ["--seed", "-1"],
    ],
)
def test_the_rest_is_passed_on(given, folders):
    refuse_options(given, pair=True)
    served = launch.Served(late="l", early="e", alpha=1.5, rest=tuple(given))
    words = launch.command(served, folders[1], folders[0], 4321)
    assert words[len(words) - len(given) :] == given


def test_a_word_that_is_no_option_is_refused():
    with pytest.raises(InputError, match="name the model with --late"):
        refuse_options(["some/model"], pair=True)


def test_options_are_read_as_vllm_reads_them():
    assert options(["--a_b", "-1", "--c.d=e", "-x"]) == [("--a-b", "-1"), ("--c", "e"), ("-x", "")]


def test_the_command_line(folders):
    early, late = folders
    served = launch.Served(late="l", early="e", alpha=-1.0, name="n", key="k", host="0.0.0.0", dtype="bfloat16")
    words = launch.command(served, late, early, 4321)
    assert words[0] == sys.executable
    assert str(late) in words
    said = dict(pairwise(words))
    assert said["--port"] == "4321"
    assert said["--host"] == "0.0.0.0"
    assert said["--served-model-name"] == "n"
    assert said["--dtype"] == "bfloat16"
    assert said["--generation-config"] == "vllm"
    assert said["--logits-processors"] == "driftline.decoding.vllm.alpha:RequestAlpha"
    assert json.loads(said["--hf-overrides"])["driftline"]["alpha"] == -1.0
    assert "k" not in words
    alone = launch.command(launch.Served(late="l"), late, None, 4321)
    assert "--hf-overrides" not in alone
    assert alone[alone.index("--logits-processors") + 1].endswith(":NoAlpha")
    drafted = launch.Served(late="l", rest=("--speculative-config", "{}"))
    assert "--logits-processors" not in launch.command(drafted, late, None, 4321)


def test_a_server_runs_models_as_they_are_saved(tmp_path, folders):
    """vLLM's own `auto` would halve float32."""

    def dtype(late, early=None, asked="auto"):
        alpha = None if early is None else 1.5
        words = launch.command(launch.Served(late="l", alpha=alpha, dtype=asked), late, early, 4321)
        return dict(pairwise(words))["--dtype"]

    early, late = folders
    half = save(tmp_path / "half", pair()[1].bfloat16())
    assert dtype(late) == dtype(late, early) == dtype(half, early) == "float32"
    assert dtype(half) == dtype(half, half) == "bfloat16"
    assert dtype(late, early, "float16") == "float16"
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    assert dtype(half) == "auto"


@pytest.mark.parametrize("rest", [(), ("--enable-chunked-prefill",), ("--no_enable_chunked_prefill",)])
@pytest.mark.parametrize("cpu", [True, False])
def test_on_processors_prompts_are_read_whole_unless_it_is_said(monkeypatch, folders, rest, cpu):
    """vLLM 0.32 cannot take back the draw of a seed after part of a prompt there, and ends."""
    monkeypatch.setattr(launch, "on_cpu", lambda: cpu)
    words = launch.command(launch.Served(late="l", rest=rest), folders[1], None, 4321)
    assert ("--no-enable-chunked-prefill" in words) == (cpu and not rest)


def test_the_environment_hides_the_key_and_keeps_the_plugin():
    found = launch.environment("secret", {"VLLM_PLUGINS": "other", "PATH": "p"})
    assert found["VLLM_API_KEY"] == "secret"
    assert found["VLLM_PLUGINS"] == "other,driftline"
    assert found["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert launch.environment(None, {"VLLM_PLUGINS": ""})["VLLM_PLUGINS"] == "driftline"
    assert "VLLM_PLUGINS" not in launch.environment(None, {})


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"early": None}, "--alpha needs --early"),
        ({"alpha": None}, "--early needs --alpha"),
        ({"alpha": float("nan")}, "--alpha is nan"),
        ({"alpha": float("inf")}, "--alpha is inf"),
        ({"alpha": 1e38}, "--alpha is 1e\\+38"),
        ({"early": "./missing"}, "missing does not exist"),
        ({"rest": ("--host", "x")}, "cannot be given after --"),
    ],
)
def test_one_sentence_before_anything_starts(monkeypatch, folders, changed, why):
    monkeypatch.setattr(launch, "must_be_installed", lambda: None)
    monkeypatch.setattr(launch, "_child", lambda *_: pytest.fail("vLLM was started"))
    served = {"late": str(folders[1]), "early": str(folders[0]), "alpha": 1.5, "port": 0} | changed
    with pytest.raises(InputError, match=why):
        launch.run(launch.Served(**served))


def test_a_port_that_is_taken_is_refused(monkeypatch, folders):
    monkeypatch.setattr(launch, "must_be_installed", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="is in use"):
        launch.run(launch.Served(late=str(folders[1]), port=taken.getsockname()[1]))


def test_alpha_that_is_not_finite_is_refused_by_the_embedded_path_too(folders):
    with pytest.raises(InputError, match="--alpha is inf"):
        load_sampler(folders[1], early=folders[0], alpha=float("inf"))


def test_without_vllm_it_says_what_to_install(monkeypatch, capsys, folders):
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    words = ["driftline", "serve", "--late", str(folders[1]), "--backend", "vllm", "--", "--enforce-eager"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "pip install 'driftline[vllm]'" in capsys.readouterr().err


def test_a_plugin_that_vllm_would_not_find_is_said(monkeypatch):
    class Found:
        origin = "/somewhere/vllm/__init__.py"

    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: Found)
    monkeypatch.setattr(launch, "entry_points", lambda group: [])
    with pytest.raises(InputError, match="install driftline"):
        launch.must_be_installed()


def test_options_after_the_dashes_are_for_vllm(folders):
    with pytest.raises(InputError, match="for --backend vllm"):
        serve_command.run(serve_command.Serve(late=str(folders[1]), rest=("--enforce-eager",)))


def test_the_exit_code_of_the_child_is_passed_on(monkeypatch, folders):
    monkeypatch.setattr(launch, "must_be_installed", lambda: None)
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", "import sys; sys.exit(7)"])
    assert launch.run(launch.Served(late=str(folders[1]), port=0)) == 7
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert launch.run(launch.Served(late=str(folders[1]), port=0)) == 137


def test_the_plugin_fails_in_no_process(monkeypatch):
    from driftline.decoding.vllm import plugin

    monkeypatch.setitem(sys.modules, "vllm", None)
    plugin.register()
    assert sys.modules["vllm"] is None
