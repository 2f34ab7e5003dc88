"""The plain way, which the scan is measured against: load every checkpoint with `from_pretrained`, keep a
0.1 % sample of each weight matrix, regress the sample on the step with torch. What the reference scripts
of the field do, without their distributed set-up.

    python benchmarks/plain.py RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main(run: Path) -> None:
    torch.manual_seed(0)
    folders = sorted(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    steps = torch.tensor([float(folder.name.split("-")[1]) for folder in folders])
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16) for folder in folders]
    rows = []
    for name, parameter in models[0].named_parameters():
        picked = torch.randint(parameter.numel(), (max(50, parameter.numel() // 1000),))
        rows.append(torch.stack([dict(m.named_parameters())[name].detach().flatten()[picked] for m in models]).float())
    values = torch.cat(rows, dim=1)
    tau = steps - steps.mean()
    centred = values - values.mean(0)
    r2 = (tau @ centred) ** 2 / ((tau @ tau) * (centred**2).sum(0))
    changed = r2[torch.isfinite(r2)]
    print(f"{changed.numel()} weights, mean R2 {changed.mean():.4f}, median {changed.median():.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
