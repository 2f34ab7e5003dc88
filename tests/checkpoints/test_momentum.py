"""The memory of a run's updates, from files that the trainers' own packages write; and one number for two filters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driftline.checkpoints.momentum import Momentum, beta1_in_training, momentum_of
from driftline.errors import InputError


def checkpoint(run: Path) -> Path:
    folder = run / "checkpoint-10"
    folder.mkdir(parents=True)
    return folder


def optimizer_state(kind: str, **options: Any) -> dict[str, Any]:
    """Of a step that was done, so that it holds tensors too."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(torch.optim, kind)([weight], lr=0.1, **options)
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("kind", "options", "beta1"),
    [
        ("AdamW", {"betas": (0.95, 0.99)}, 0.95),
        ("Adam", {}, 0.9),
        ("SGD", {}, 0.0),
        ("SGD", {"momentum": 0.8}, 0.8),
        ("NAdam", {"betas": (0.85, 0.999)}, 0.85),
        ("RMSprop", {}, 0.0),
    ],
)
def test_it_is_read_from_the_optimizers_state(kind: str, options: dict[str, Any], beta1: float, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    torch.save(optimizer_state(kind, **options), folder / "optimizer.pt")
    assert momentum_of([folder]) == Momentum(beta1, "optimizer.pt")


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("actor/optim_world_size_2_rank_0.pt", lambda state: state),
        (
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            lambda state: {"optimizer_state_dict": {"base_optimizer_state": state}},
        ),
        (
            "global_step10/zero_pp_rank_0_mp_rank_00_optim_states.pt",
            lambda state: {"optimizer_state_dict": state, "ds_config": {}},
        ),
        (
            "mp_rank_00_model_states.pt",
            lambda state: {"module": {}, "ds_config": {"optimizer": {"params": {"betas": [0.97, 0.99]}}}},
        ),
    ],
)
def test_wherever_a_trainer_puts_it(name: str, wrap: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    torch.save(wrap(optimizer_state("AdamW", betas=(0.97, 0.99))), folder / name)
    assert momentum_of([folder]) == Momentum(0.97, Path(name).name)


def test_of_several_groups_the_longest_memory_counts_and_lions_is_its_second(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    groups = [{"lr": 1e-4, "momentum": 0.95}, {"lr": 1e-5, "betas": (0.8, 0.99), "eps": 1e-8}]  # Muon beside Adam
    torch.save({"state": {}, "param_groups": groups}, folder / "optimizer.pt")
    assert momentum_of([folder]).beta1 == 0.95
    torch.save({"state": {}, "param_groups": [{"lr": 1e-5, "betas": (0.9, 0.99)}]}, folder / "optimizer.pt")
    assert momentum_of([folder]).beta1 == 0.99


@pytest.mark.parametrize(
    ("options", "beta1", "source"),
    [
        ({"adam_beta1": 0.93}, 0.93, "training_args.bin"),
        ({"optim": "sgd", "adam_beta1": 0.93}, 0.0, "training_args.bin"),
        ({"optim": "lion_32bit", "adam_beta2": 0.98}, 0.98, "training_args.bin"),
        ({"optim": "sgd", "optim_args": "momentum=0.8"}, 0.8, "training_args.bin"),
        ({"optim": "sgd", "optim_args": "momentum"}, 0.9, "assumed"),
        ({"optim": "rmsprop", "optim_args": "momentum=0.7, centered=true"}, 0.7, "training_args.bin"),
        ({"optim": "adamw_8bit", "optim_args": "momentum=0.7", "adam_beta1": 0.93}, 0.93, "training_args.bin"),
        ({"optim": "adafactor"}, 0.0, "training_args.bin"),
        ({"optim": "galore_adafactor"}, 0.0, "training_args.bin"),
        ({"optim": "ademamix"}, 0.9999, "training_args.bin"),
        ({"optim": "ademamix", "optim_args": "beta3=0.999"}, 0.999, "training_args.bin"),
        ({"optim": "schedule_free_adamw", "adam_beta1": 0.93}, 0.9, "assumed"),
    ],
)
def test_it_is_read_from_training_arguments(options: dict[str, Any], beta1: float, source: str, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    folder = checkpoint(tmp_path)
    torch.save(TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options), folder / "training_args.bin")
    assert momentum_of([folder]) == Momentum(beta1, source)


class Lion(torch.optim.SGD):
    """With the groups that bitsandbytes gives its own."""

    def __init__(self, parameters: list[torch.nn.Parameter], **options: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.param_groups = [{"params": parameters, "lr": 0.1, **options}]


class RMSprop(Lion):
    pass


class AdEMAMix(Lion):
    pass


@pytest.mark.parametrize(
    ("kind", "options", "beta1"),
    [
        (torch.optim.AdamW, {"betas": (0.95, 0.99)}, 0.95),
        (torch.optim.SGD, {"momentum": 0.8}, 0.8),
        (torch.optim.SGD, {}, 0.0),
        (torch.optim.Adagrad, {}, 0.0),  # whose groups say nothing: by the arguments' name
        (Lion, {"betas": (0.9, 0.98), "eps": 0.0}, 0.98),
        (Lion, {"betas": (0.9, 0.98), "eps": 1e-8}, 0.98),
        (RMSprop, {"betas": (0.99, 0.0), "eps": 1e-8}, 0.0),
        (AdEMAMix, {"betas": (0.9, 0.999, 0.9995), "eps": 1e-8}, 0.9995),
    ],
)
def test_of_a_run_in_training_it_is_that_of_the_optimizer_at_work(
    kind: Any, options: dict[str, Any], beta1: float, tmp_path: Path
) -> None:
    from accelerate import Accelerator
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="adagrad", adam_beta1=0.7)
    made = kind([torch.nn.Parameter(torch.ones(3))], **options)
    assert beta1_in_training(made, arguments) == beta1
    assert beta1_in_training(Accelerator(cpu=True).prepare_optimizer(made), arguments) == beta1
    assert beta1_in_training(None, arguments) == 0.0


def test_run_json_comes_first_and_the_users_word_before_all(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    torch.save(optimizer_state("AdamW", betas=(0.95, 0.99)), folder / "optimizer.pt")
    (tmp_path / "run.json").write_text(json.dumps({"optimizer": {"adam_beta1": 0.5}}))
    assert momentum_of([folder]) == Momentum(0.5, "run.json")
    assert momentum_of([folder], ema=0.99) == Momentum(0.5, "run.json", 0.99)
    assert momentum_of([folder], 0.0) == Momentum(0.0, "--beta1")


class Executed:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exit, ("a pickle was executed",))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_what_is_damaged_or_hostile_is_as_if_it_were_not_there(content: bytes, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "optimizer.pt").write_bytes(content)
    torch.save({"param_groups": Executed()}, folder / "optimizer.bin")
    torch.save(Executed(), folder / "training_args.bin")
    assert momentum_of([folder]) == Momentum(0.9, "assumed")


@pytest.mark.parametrize(("name", "value"), [("beta1", 1.0), ("beta1", -0.1), ("ema", 1.5), ("ema", float("nan"))])
def test_what_is_no_decay_is_refused(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--{name} .* is no decay"):
        momentum_of([tmp_path], **{name: value})


@pytest.mark.parametrize(("beta1", "ema"), [(0.9, 0.0), (0.9, 0.98), (0.0, 0.95), (0.95, 0.95)])
def test_one_momentum_sums_up_as_far_as_two_filters(beta1: float, ema: float) -> None:
    """Variance of the sum of many updates over that of one, of updates filtered twice, by their impulse response."""
    steps = np.arange(4000)
    response = np.convolve((1 - beta1) * beta1**steps, (1 - ema) * ema**steps)[:4000]
    ratio = response.sum() ** 2 / (response**2).sum()
    b = Momentum(beta1, "", ema).effective
    assert (1 + b) / (1 - b) == pytest.approx(ratio, rel=1e-6)
