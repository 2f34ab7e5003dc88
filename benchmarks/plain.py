"""The plain way, which the scan is measured against: load every checkpoint with `from_pretrained`, keep a
0.1 % sample of each weight matrix, regress the sample on the step with torch.

    python benchmarks/plain.py RUN               positions drawn by randint: the fastest plain way
    python benchmarks/plain.py RUN --randperm    drawn by a permutation of the whole tensor, as the paper's script does
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main(run: Path, permute: bool) -> None:
    torch.manual_seed(0)
    folders = sorted(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    steps = torch.tensor([float(folder.name.split("-")[1]) for folder in folders])
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16) for folder in folders]
    rows = []
    for name, parameter in models[0].named_parameters():
        size = parameter.numel()
        count = min(size, max(50, size // 1000))
        picked = torch.randperm(size)[:count] if permute else torch.randint(size, (count,))
        rows.append(torch.stack([dict(m.named_parameters())[name].detach().flatten()[picked] for m in models]).float())
    values = torch.cat(rows, dim=1)
    tau = steps - steps.mean()
    centred = values - values.mean(0)
    r2 = (tau @ centred) ** 2 / ((tau @ tau) * (centred**2).sum(0))
    changed = r2[torch.isfinite(r2)]
    print(f"{changed.numel()} weights, mean R2 {changed.mean():.4f}, median {changed.median():.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), permute="--randperm" in sys.argv[2:])
