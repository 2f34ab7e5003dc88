"""What is quoted of a library's error."""

from __future__ import annotations

import os

import pytest

from driftline.errors import InputError, UnreadableCheckpoint, first_line, in_one_sentence

TORCH = (
    "Weights only load failed. In PyTorch 2.6, we changed the default value of the `weights_only` argument in `torch.load` "
    "from `False` to `True`. Re-running `torch.load` with `weights_only` set to `False` will likely succeed, but it can result "
    "in arbitrary code execution.\nPlease file an issue: WeightsUnpickler error: Unsupported global: GLOBAL os.system"
)
HUB = (
    "The repository x contains custom code which must be executed to correctly load the model.\n"
    "Please pass the argument `trust_remote_code=True` to allow custom code to be run."
)
NUMPY = "Cannot load file containing pickled data when allow_pickle=False"


@pytest.mark.parametrize("said", [TORCH, HUB, NUMPY, f"first\n{HUB}"])
def test_no_advice_to_run_code_is_quoted(said: str) -> None:
    quoted = first_line(RuntimeError(said))
    assert quoted.startswith("it ")
    for word in ("weights_only", "trust_remote_code", "allow_pickle", "pass", "False", "True", "execut"):
        assert word not in quoted


def test_a_name_that_no_library_takes_is_told_as_that() -> None:
    odd = os.fsdecode(b"model-\xff")
    with (
        pytest.raises(InputError, match=r"loads .its name is not UTF-8, and libraries take no other.: rename it"),
        in_one_sentence(f"{odd} has no tokenizer that loads", "save one"),
    ):
        odd.encode()
    with (
        pytest.raises(InputError, match=r"loads .no such thing.: save one"),
        in_one_sentence(f"{odd} has no tokenizer that loads", "save one"),
    ):
        raise ValueError("no such thing")


@pytest.mark.parametrize("length", [999, 1000, 10**6])
def test_what_is_long_is_quoted_by_its_ends(length: int) -> None:
    name = "b" + "x" * (length - 2) + "e"
    said = str(UnreadableCheckpoint(f"{name} does not exist: give a model's folder"))
    assert said.endswith(" does not exist: give a model's folder")
    assert said.startswith("bx")
    assert "xe " in said
    assert (name in said) == (length < 1000)
    assert len(said) < 1100
