"""NeMo-RL's folders: distributed checkpoints, slices with and without the whole beside them, adapters."""

import pytest
from compare import PRODUCTS, check
from environments import Written, write


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("nemo_rl", request, tmp_path_factory)


@pytest.mark.parametrize("case", ["distributed", "distributed_tied", "distributed_by_automodel"])
def test_distributed(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base")


@pytest.mark.parametrize("case", ["slices", "slices_tied", "consolidated", "automodel_under_verl"])
def test_slices(written, case, tmp_path):
    """Their configuration is in `.hf_metadata`."""
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path)


@pytest.mark.parametrize("case", ["lora"])
def test_adapters_alone(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "products", tmp_path, forecast=False, rounding=PRODUCTS)


@pytest.mark.parametrize("case", ["lora"])
def test_adapters_on_their_base(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base", rounding=PRODUCTS)
