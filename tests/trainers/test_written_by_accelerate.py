"""accelerate's FSDP2, sharded over two ranks for real: sharded and gathered checkpoints, with and without LoRA."""

import shutil
from pathlib import Path

import pytest
from compare import PRODUCTS, check, check_without_scale
from environments import Written, write


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("accelerate", request, tmp_path_factory)


def configured(folder: Path, scratch: Path) -> Path:
    """The run with `adapter_config.json` in each checkpoint, where Trainer leaves none beside sharded factors."""
    run = shutil.copytree(folder / "run", scratch / "run")
    for checkpoint in run.iterdir():
        shutil.copy(folder / "adapter" / "adapter_config.json", checkpoint)
    return run


@pytest.mark.parametrize("case", ["sharded", "full"])
def test_whole_weights(written, case, tmp_path):
    folder = written.folder(case)
    base = folder / "base" if case == "sharded" else None  # sharded, it has no configuration
    check(folder / "run", folder / "truth", tmp_path, base=base)


@pytest.mark.parametrize("case", ["sharded_lora", "full_lora"])
def test_factors_alone(written, case, tmp_path):
    folder = written.folder(case)
    run = configured(folder, tmp_path)
    check(run, folder / "products", tmp_path, forecast=False, rounding=PRODUCTS)


@pytest.mark.parametrize("case", ["sharded_lora", "full_lora", "sharded_lora_frozen_too", "full_lora_frozen_too"])
def test_factors_on_their_base(written, case, tmp_path):
    folder = written.folder(case)
    run = configured(folder, tmp_path)
    check(run, folder / "truth", tmp_path, base=folder / "base", rounding=PRODUCTS)


@pytest.mark.parametrize("case", ["sharded_lora", "sharded_lora_frozen_too"])
def test_factors_whose_scale_is_nowhere(written, case, tmp_path):
    folder = written.folder(case)
    check_without_scale(folder / "run", folder / "products", tmp_path, scale=4, base=folder / "base")
