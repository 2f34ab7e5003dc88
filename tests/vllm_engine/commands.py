"""driftline's commands, run here and in processes of their own, and what they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

SOURCE = Path(__file__).parents[2] / "src"
_MAIN = "import sys; from driftline.cli import main; sys.exit(main())"


def run(*words: object) -> None:
    """A command in this process, so that one engine serves many."""
    from driftline.cli import main

    with patch.object(sys, "argv", ["driftline", *map(str, words), "--quiet"]):
        main()


def start(*words: object, **variables: str) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "VLLM_LOGGING_LEVEL"}
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *map(str, words), "--quiet"],
        env=kept | {"PYTHONPATH": path} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def prompts_file(folder: Path, prompts: list[list[int]]) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": " ".join(f"w{i}" for i in ids)}) + "\n" for ids in prompts))
    return file


def lab_run(folder: Path, steps: tuple[int, ...] = (0, 10, 20, 30), apart: float = 2e-3) -> Path:
    """The lab's base model of sums, and checkpoints that leave it in a straight line."""
    from driftline.lab.model import shipped_base
    from driftline.models import load_model, load_tokenizer

    model, tokenizer = load_model(shipped_base(), dtype="float32"), load_tokenizer(shipped_base())
    generator = torch.Generator().manual_seed(5)
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    drift = {name: apart * torch.randn(weight.shape, generator=generator) for name, weight in first.items()}
    for step in steps:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(first[name] + step / steps[-1] * drift[name])
        model.save_pretrained(folder / f"checkpoint-{step}")
        tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return folder
