"""Repositories cloned without git-lfs: pointers in place of files are called so, whichever file they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_folders import checkpoint, run_of

from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 1234567\n"


def test_a_run_of_pointers_says_what_to_type(tmp_path: Path) -> None:
    run = run_of(tmp_path, [f"checkpoint-{step}" for step in (100, 200, 300)])
    for folder in run.iterdir():
        (folder / "model.safetensors").write_text(POINTER)
    with pytest.raises(InputError) as raised:
        open_trajectory(run)
    said = "3 checkpoints (100 to 300): FOLDER/model.safetensors is a Git LFS pointer, not the file itself: type `git lfs pull`"
    assert said in str(raised.value)


def test_a_pointer_at_an_address_is_called_so_too(tmp_path: Path, upload: Callable[[Path], str]) -> None:
    run = run_of(tmp_path / "run", ["step_10", "step_20"])
    (run / "step_20" / "model.safetensors").write_text(POINTER)
    assert "is a Git LFS pointer" in open_trajectory(upload(run)).skipped[20]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("pytorch_model.bin", {}),
        ("model.safetensors.index.json", {}),
        ("config.json", None),
        ("adapter_model.safetensors", {"adapter_config.json": "{}"}),
        ("actor/model_world_size_1_rank_0.pt", {}),
        ("pytorch_model_fsdp_0/.metadata", {"pytorch_model_fsdp_0/__0_0.distcp": ""}),
        ("m-1.safetensors", {"model.safetensors.index.json": json.dumps({"weight_map": {"w": "m-1.safetensors"}})}),
    ],
)
def test_whichever_file_is_a_pointer(tmp_path: Path, name: str, others: dict[str, str] | None) -> None:
    run = run_of(tmp_path, ["step_10", "step_20"])
    folder = run / "step_30"
    if others is None:  # beside weights that are there
        checkpoint(folder)
    for file, text in {**(others or {}), name: POINTER}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    trajectory = open_trajectory(run)
    assert trajectory.steps == (10, 20)
    assert trajectory.skipped[30].startswith(f"{folder / name} is a Git LFS pointer")
    assert f"git lfs pull` in {(folder / name).parent}" in trajectory.skipped[30]
