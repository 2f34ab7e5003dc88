"""The straightforward RELEX, which driftline's is measured against: every delta is stored as float16 and read back.

    python benchmarks/plain_relex.py RUN TARGET OUT

For each tensor: deltas from the first checkpoint as one raw float16 file [T, n]; their Gram, its leading
eigenvector, a line through the coefficients, and the prediction, saved in bfloat16.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def main(run: Path, target: float, out: Path) -> None:
    folders = sorted(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    steps = np.array([float(folder.name.split("-")[1]) for folder in folders])
    files = [safe_open(folder / "model.safetensors", "pt") for folder in folders]
    predicted = {}
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        for name in files[0].keys():  # noqa: SIM118 - not a dictionary
            first = files[0].get_tensor(name).float()
            deltas = np.memmap(f"{scratch}/{name}.raw", np.float16, "w+", shape=(len(files), first.numel()))
            for row, file in zip(deltas, files, strict=True):
                row[:] = (file.get_tensor(name).float() - first).flatten().half().numpy()
            deltas.flush()
        for name in files[0].keys():  # noqa: SIM118
            first = files[0].get_tensor(name).float()
            shape = (len(files), first.numel())
            m = torch.from_numpy(np.fromfile(f"{scratch}/{name}.raw", np.float16).reshape(shape)).float()
            _, vectors = torch.linalg.eigh(m @ m.T)
            u = vectors[:, -1]
            direction = u @ m  # sigma v
            slope, intercept = np.polyfit(steps, u.numpy(), 1)
            predicted[name] = (
                (first.flatten() + (slope * target + intercept) * direction).reshape(first.shape).bfloat16()
            )
    out.mkdir(parents=True, exist_ok=True)
    save_file(predicted, out / "model.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
