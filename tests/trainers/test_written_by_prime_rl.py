"""prime-rl's folders: distributed checkpoints, weights for its servers, and its names of LoRA's factors."""

import shutil

import pytest
from compare import PRODUCTS, check, check_without_scale
from environments import Written, write

import driftline


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("prime_rl", request, tmp_path_factory)


@pytest.mark.parametrize("case", ["checkpoints", "checkpoints_and_weights"])
def test_checkpoints(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base")


@pytest.mark.parametrize("case", ["weights"])
def test_weights_without_the_last_which_is_still_being_written(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "rounded_truth", tmp_path, steps=(10, 20, 30))
    assert "STABLE" in driftline.open_trajectory(folder / "run").skipped[40]


@pytest.mark.parametrize("case", ["lora"])
def test_factors_with_their_configuration_beside_them(written, case, tmp_path):
    folder = written.folder(case)
    run = shutil.copytree(folder / "run", tmp_path / "run")
    for checkpoint in (run / "checkpoints").iterdir():
        shutil.copy(folder / "adapter" / "adapter_config.json", checkpoint)
    check(run, folder / "truth", tmp_path, base=folder / "base", rounding=PRODUCTS)


@pytest.mark.parametrize("case", ["lora"])
def test_factors_whose_scale_is_nowhere(written, case, tmp_path):
    folder = written.folder(case)
    check_without_scale(folder / "run", folder / "products", tmp_path, scale=4, base=folder / "base")
