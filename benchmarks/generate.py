"""Makes an LLM-shaped bf16 run of any size: what the benchmarks read.

    python benchmarks/generate.py --out bench-data/run --parameters 0.4e9 --checkpoints 8

A Qwen2-shaped model (tied embeddings, 24 layers) whose width is chosen to reach the size. Weights start
from N(0, .02); each interval every weight drifts and walks a little, in float32, and is saved in bf16.
Every folder also has a config, so that `from_pretrained` loads it.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

LAYERS, VOCABULARY, HEAD = 24, 32_000, 64


def shapes(parameters: float, layers: int = LAYERS, vocabulary: int = VOCABULARY) -> dict[str, tuple[int, ...]]:
    """Tensors of the model whose size comes nearest to `parameters`."""
    width = min(range(HEAD, 8193, HEAD), key=lambda w: abs(_count(w, layers, vocabulary) - parameters))
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{prefix}.self_attn.{name}.weight"] = (width, width)
            tensors[f"{prefix}.self_attn.{name}.bias"] = (width,)
        tensors[f"{prefix}.self_attn.o_proj.weight"] = (width, width)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{prefix}.mlp.{name}.weight"] = (4 * width, width)
        tensors[f"{prefix}.mlp.down_proj.weight"] = (width, 4 * width)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = (width,)
    return tensors | {"model.norm.weight": (width,)}


def _count(width: int, layers: int, vocabulary: int) -> int:
    return vocabulary * width + layers * (16 * width**2 + 5 * width) + width


def generate(
    out: Path, parameters: float, checkpoints: int, seed: int = 0, *, layers: int = LAYERS, vocabulary: int = VOCABULARY
) -> int:
    """Write the run, tensor by tensor; returns its number of parameters. Existing complete runs are kept."""
    tensors = shapes(parameters, layers, vocabulary)
    count = sum(int(np.prod(shape)) for shape in tensors.values())
    done = out / "complete"
    if done.exists() and done.read_text() == f"{count} {checkpoints} {seed}":
        return count
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    width = tensors["model.norm.weight"][0]
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD,
        "num_key_value_heads": width // HEAD,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    files = []
    for step in range(checkpoints):
        folder = out / f"checkpoint-{100 * step}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        file = open(folder / "model.safetensors", "wb")  # noqa: SIM115 - all stay open while tensors are written
        file.write(struct.pack("<Q", len(text)) + text)
        files.append(file)
    rng = np.random.default_rng(seed)
    for shape in tensors.values():
        left = int(np.prod(shape))
        while left:
            n = min(left, 1 << 22)
            weights = rng.standard_normal(n, np.float32) * np.float32(0.02)
            drift = rng.standard_normal(n, np.float32) * np.float32(2e-5)
            for file in files:
                file.write(weights.astype(ml_dtypes.bfloat16).tobytes())
                weights += drift
                weights += rng.standard_normal(n, np.float32) * np.float32(2e-5)
            left -= n
    for file in files:
        file.close()
    done.write_text(f"{count} {checkpoints} {seed}")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parameters", type=float, default=0.4e9)
    parser.add_argument("--checkpoints", type=int, default=8)
    arguments = parser.parse_args()
    print(generate(arguments.out, arguments.parameters, arguments.checkpoints), "parameters")
