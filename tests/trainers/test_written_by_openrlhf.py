"""OpenRLHF under ZeRO 1 to 3: fp32 masters, models and adapters for transformers, of its PPO and SFT trainers' folders."""

import pytest
from compare import PRODUCTS, check, check_without_scale
from environments import Written, write


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("openrlhf", request, tmp_path_factory)


MASTERS = ["stage_1", "stage_2", "stage_3", "best", "sft", "sft_stage_3", "sft_states_alone"]


@pytest.mark.parametrize("case", MASTERS)
def test_fp32_masters(written, case, tmp_path):
    """Where models for transformers lie beside them, rounded to bfloat16, too."""
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base")


@pytest.mark.parametrize("case", ["rotated"])
def test_fp32_masters_that_rotation_left(written, case, tmp_path):
    folder = written.folder(case)
    assert {path.name for path in (folder / "run" / "_actor").glob("global_step*")} == {
        f"global_step{step}" for step in (20, 30, 40)
    }
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base", steps=(0, 20, 30, 40))


@pytest.mark.parametrize("case", ["models_alone"])
def test_models_for_transformers(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "rounded_truth", tmp_path)


@pytest.mark.parametrize("case", ["stage_2", "stage_3", "sft"])
def test_models_for_transformers_by_name(written, case, tmp_path):
    folder = written.folder(case)
    run = [f"{step}={folder}/run/global_step{step}_hf" for step in (10, 20, 30, 40)]
    check(run, folder / "rounded_truth", tmp_path)


@pytest.mark.parametrize("case", ["lora", "lora_stage_3", "lora_sft"])
def test_masters_of_factors(written, case, tmp_path):
    """Their scale is in `adapter_config.json` of the adapters beside them."""
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base", rounding=PRODUCTS)


@pytest.mark.parametrize("case", ["lora_states_alone"])
def test_factors_whose_scale_is_nowhere(written, case, tmp_path):
    folder = written.folder(case)
    check_without_scale(folder / "run", folder / "products", tmp_path, scale=4, base=folder / "base")


ADAPTERS = ["adapters_alone", "adapters_alone_stage_3"]


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "rounded_products", tmp_path, forecast=False, rounding=PRODUCTS)


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_on_their_base(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "rounded_truth", tmp_path, base=folder / "base", rounding=PRODUCTS)
