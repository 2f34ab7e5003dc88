"""megatron-core's torch_dist: tensors of all layers, which it stores stacked, in one part and in two."""

import pytest
from compare import check
from environments import Written, write

import driftline


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("megatron", request, tmp_path_factory)


@pytest.mark.parametrize("case", ["one_rank", "tensor_parallel", "under_verl"])
def test_its_own_names(written, case, tmp_path):
    """As they are stored, or each layer by itself as in the model; no configuration of transformers goes with them."""
    folder = written.folder(case)
    names = {series.name for series in driftline.open_trajectory(folder / "run")}
    kind = "truth" if any(name.startswith("decoder.layers.0.") for name in names) else "stored"
    check(folder / "run", folder / kind, tmp_path, forecast=False)
