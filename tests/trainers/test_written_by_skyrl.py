"""SkyRL's ranks' files in `policy/`, as verl's in `actor/`; its exports for transformers."""

import pytest
from compare import PRODUCTS, check
from environments import Written, write


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("skyrl", request, tmp_path_factory)


@pytest.mark.parametrize("case", ["whole", "tied"])
def test_whole_weights(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path)


@pytest.mark.parametrize("case", ["whole"])
def test_exports_for_transformers(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "exports", folder / "truth", tmp_path)


@pytest.mark.parametrize("case", ["lora"])
def test_factors_beside_the_frozen_weights(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, rounding=PRODUCTS)
