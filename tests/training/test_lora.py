"""LoRA adapters jump by their product: against the dense product and its best cut, and in a trainer with peft."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec import UNSET
from tiny_trainer import tiny_model, trainer, weights
from transformers import TrainerCallback

from driftline.checkpoints.jumps import read_jumps
from driftline.training.lora import combine_products
from driftline.training.regrounding import RegroundingCallback

A, B = "q.lora_A.default.weight", "q.lora_B.default.weight"


def cut(dense: torch.Tensor, rank: int) -> torch.Tensor:
    U, sizes, V = torch.linalg.svd(dense, full_matrices=False)
    return (U[:, :rank] * sizes[:rank]) @ V[:rank]


def test_products_are_the_best_of_their_rank_and_factors_stay_near():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    first = {A: normal(3, 20), B: torch.zeros(30, 3, dtype=torch.float64)}  # as peft initialises
    middle = {A: first[A] + 0.1 * normal(3, 20), B: 0.2 * normal(30, 3)}
    last = {A: middle[A] + 0.1 * normal(3, 20), B: middle[B] + 0.2 * normal(30, 3)}
    a = np.array([-0.5, -1.0, 2.5])
    dense = sum(c * point[B] @ point[A] for c, point in zip(a, (first, middle, last), strict=True))
    before = {name: value.clone() for name, value in last.items()}
    discarded = combine_products([first, middle, last], a)
    torch.testing.assert_close(last[B] @ last[A], cut(dense, 3))
    assert discarded == pytest.approx(float((dense - cut(dense, 3)).norm() / dense.norm()))
    assert 0 < discarded < 0.3
    assert (last[A] - before[A]).norm() < 0.5 * before[A].norm()


def test_from_a_fresh_adapter_the_jump_is_exact():
    """B starts at 0, so the product of the first point is 0 and the projected one has the adapter's rank."""
    generator = torch.Generator().manual_seed(1)
    first = {A: torch.randn(2, 9, generator=generator), B: torch.zeros(7, 2)}
    last = {A: first[A] + 0.01, B: torch.randn(7, 2, generator=generator)}
    wanted = 3 * last[B] @ last[A]
    assert combine_products([first, last], np.array([-2.0, 3.0])) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(last[B] @ last[A], wanted)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_jumps_in_a_trainer(tmp_path):
    peft = pytest.importorskip("peft")
    seen = {}

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen["before"] = weights(model)

        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen["after"] = weights(model)

    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    made = trainer(
        tmp_path, [RegroundingCallback(4, 8, adapters="product"), Watch()], steps=4, model=model, learning_rate=1e-2
    )
    made.train()
    checked = 0
    for name in [name for name in seen["before"] if ".lora_A." in name]:
        other = name.replace(".lora_A.", ".lora_B.")
        before, after = (seen[when][other] @ seen[when][name] for when in ("before", "after"))
        torch.testing.assert_close(after, 3 * before, rtol=1e-3, atol=1e-7)  # the first product was 0
        checked += 1
    assert checked == 2
    discarded = read_jumps(tmp_path)[0].lora_discarded
    assert discarded is not UNSET
    assert discarded < 1e-4
