"""TRL's GRPOTrainer: whole models and adapters."""

import pytest
from compare import PRODUCTS, check
from environments import Written, write


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("trl", request, tmp_path_factory)


@pytest.mark.parametrize("case", ["full", "tied"])
def test_whole_weights(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path)


@pytest.mark.parametrize("case", ["limited"])
def test_the_checkpoints_that_a_limit_left(written, case, tmp_path):
    folder = written.folder(case)
    kept = sorted(int(path.name.removeprefix("checkpoint-")) for path in (folder / "run").glob("checkpoint-*"))
    assert kept == [6, 8]
    check(folder / "run", folder / "truth", tmp_path, steps=kept)


ADAPTERS = ["lora", "lora_stabilised", "lora_patterns", "lora_embeddings"]


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_alone(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "products", tmp_path, forecast=False, rounding=PRODUCTS)


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_on_their_base(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base", rounding=PRODUCTS)
