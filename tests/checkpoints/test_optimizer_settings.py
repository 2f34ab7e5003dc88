"""The optimizer's momentum in torch's distributed checkpoints, and in configurations as trainers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from driftline.checkpoints.momentum import Momentum, momentum_of

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
NEMO_RL = """
policy:
  megatron_cfg: {enabled: false, optimizer: {optimizer: adam, adam_beta1: 0.5}}
  optimizer: {name: torch.optim.AdamW, kwargs: {lr: 5.0e-6, betas: [0.97, 0.999], eps: 1e-8}}
  generation: {beta1: 0.1}
value: {optimizer: {kwargs: {betas: [0.3, 0.9]}}}
"""
PRIME_RL = '[model]\nname = "tiny"\n[optim]\ntype = "adamw"\nlr = 1e-6\nbetas1 = 0.96\nbetas2 = 0.999\n'
HYDRA = """
actor_rollout_ref:
  actor: {optim: {lr: 1e-6, betas: [0.95, 0.999], optimizer: AdamW}, kl_loss: {beta1: 0.2}}
critic: {optim: {betas: [0.1, 0.999]}}
"""


def of(run: Path, name: str, text: str) -> Momentum:
    folder = run / "step_10"
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(text)
    return momentum_of([folder])


@pytest.mark.parametrize(
    ("name", "text", "beta1"),
    [
        ("step_10/config.yaml", NEMO_RL, 0.97),
        ("configs/trainer.toml", PRIME_RL, 0.96),
        (".hydra/config.yaml", HYDRA, 0.95),
        ("config.yaml", "optim: adamw_torch\nadam_beta1: 0.94\nlearning_rate: 1e-6\n", 0.94),
        ("config.yaml", "actor: {optim: {name: sgd, lr: 1e-3}}", 0.0),
        ("config.yaml", "actor: {optim: {name: SGD, momentum: 0.8}}", 0.8),
        ("config.yaml", "optimizer: {name: rmsprop, momentum: 0.7}", 0.7),
        ("config.yaml", "optimizer: {type: lion, betas: [0.9, 0.99]}", 0.99),
        ("config.yaml", "optimizers: [{type: adamw, betas: [0.9, 0.99]}, {type: muon, momentum: 0.95}]", 0.95),
    ],
)
def test_it_is_found_where_each_trainer_has_it(name: str, text: str, beta1: float, tmp_path: Path) -> None:
    assert of(tmp_path, name, text) == Momentum(beta1, Path(name).name)


def test_prime_rls_weights_lie_a_folder_below_what_says_so(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "trainer.toml").write_text(PRIME_RL)
    folder = tmp_path / "weights" / "step_10"
    folder.mkdir(parents=True)
    assert momentum_of([folder]) == Momentum(0.96, "trainer.toml")


@pytest.mark.parametrize(
    "text",
    [
        "beta1: 0.5",  # of what?
        "loss: {beta1: 0.5, betas: [0.5, 0.6]}",
        "actor: {optim: {lr: 1e-6}}",
        "actor: {optim: {betas: '${oc.env:BETAS}'}}",
        "optimizer: {name: AdEMAMix, betas: [0.5, 0.99, 0.9999]}",
        "optimizer: {betas: [0.5, 0.9",
        "optimizer: {betas: [1.5, 0.9]}",
        "a: &a [x]\nb: &b [*a, *a]\noptimizer: {betas: *b}",
        "optimizer: " + "[" * 5000,
        "optimizer: !!python/object/apply:os.abort []",
        "optimizer: {betas: [" + "9" * 5000 + ", 0]}",
        "\x00",
        "x" * (1 << 20) + "x",
    ],
)
def test_what_says_nothing_of_it_or_is_damaged_or_hostile_is_as_if_it_were_not_there(text: str, tmp_path: Path) -> None:
    assert of(tmp_path, "config.yaml", text) == Momentum(0.9, "assumed")


def test_an_anchor_that_stands_often_or_in_itself_ends(tmp_path: Path) -> None:
    doubled = "a0: &a0 {b: 1}\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60))
    assert of(tmp_path, "config.yaml", f"{doubled}optimizer: &o {{betas: [0.7, 0.9], again: *o}}") == Momentum(
        0.7, "config.yaml"
    )


def trained(kind: str, **options: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    ("place", "kind", "options", "beta1"),
    [
        ("", "AdamW", {"betas": (0.95, 0.99)}, 0.95),  # torchtitan
        ("trainer", "SGD", {"momentum": 0.85}, 0.85),  # prime-rl
        ("policy/optimizer/optim", "SGD", {}, 0.0),  # NeMo-RL
        ("optimizer_0", "Adam", {"betas": (0.8, 0.99)}, 0.8),  # accelerate's FSDP
    ],
)
def test_it_is_read_from_a_distributed_checkpoint(
    place: str, kind: str, options: dict[str, Any], beta1: float, flat: bool, tmp_path: Path
) -> None:
    model, optimizer = trained(kind, **options)
    state = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat))
    folder = tmp_path / "step_10"
    distributed.save({"app": {"optimizers": state, "progress": {"step": 10}}}, checkpoint_id=folder / place)
    source = f"{Path('step_10', place).name}/.metadata"
    assert momentum_of([folder]) == Momentum(beta1, source)


def test_a_distributed_checkpoint_without_its_data_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    model, optimizer = trained("AdamW", betas=(0.95, 0.99))
    folder = tmp_path / "step_10"
    distributed.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folder)
    for file in folder.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:50])
    assert momentum_of([folder]) == Momentum(0.9, "assumed")


def test_megatrons_common_file_says_it(tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000010"
    folder.mkdir()
    group = {"lr": 1e-6, "betas": (0.96, 0.99), "eps": 1e-8, "params": [0]}
    torch.save({"iteration": 10, "optimizer": {"optimizer": {"param_groups": [group]}}}, folder / "common.pt")
    assert momentum_of([folder]) == Momentum(0.96, "common.pt")
