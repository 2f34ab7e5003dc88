"""verl's FSDP checkpoints: ranks' files of FSDP1 and FSDP2, replicas, buffers, LoRA, its model for transformers, its merger."""

import pytest
from compare import PRODUCTS, check
from environments import Written, write

import driftline


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("verl", request, tmp_path_factory)


WHOLE = ["one_rank", "two_ranks", "tied", "along_any_axis", "bfloat16", "experts", "replicas", "hybrid", "sft"]
SAVED_FOR_TRANSFORMERS = ["with_hf_model", "hf_model_alone", "sft_hf_model_alone"]
FSDP1 = ["fsdp1_one_rank", "fsdp1", "fsdp1_tied", "fsdp1_experts", "fsdp1_replicas", "fsdp1_hybrid"]


@pytest.mark.parametrize("case", WHOLE + SAVED_FOR_TRANSFORMERS + FSDP1)
def test_whole_weights(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path)


@pytest.mark.parametrize("case", ["two_ranks"])
def test_whole_weights_after_their_base(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base")


@pytest.mark.parametrize("case", ["rotated"])
def test_what_rotation_left(written, case, tmp_path):
    """verl deletes the weights of older steps, and leaves their folders with `data.pt`."""
    folder = written.folder(case)
    assert (folder / "run" / "global_step_10" / "data.pt").is_file()
    check(folder / "run", folder / "truth", tmp_path, steps=(30, 40))
    skipped = driftline.open_trajectory(folder / "run").skipped
    assert not any("still being written" in why for why in skipped.values())


@pytest.mark.parametrize("case", ["lora", "lora_one_rank", "lora_with_hf_model", "lora_sft", "lora_fsdp1"])
def test_factors_beside_the_frozen_weights(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, rounding=PRODUCTS)


FACTORS = ["lora_only", "lora_only_sft", "lora_only_fsdp1"]


@pytest.mark.parametrize("case", FACTORS)
def test_factors_alone(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "products", tmp_path, forecast=False, rounding=PRODUCTS)


@pytest.mark.parametrize("case", FACTORS)
def test_factors_on_their_base(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, base=folder / "base", rounding=PRODUCTS)


@pytest.mark.parametrize("case", ["merged"])
def test_what_its_merger_made(written, case, tmp_path):
    folder = written.folder(case)
    check(folder / "merged", folder / "rounded_truth", tmp_path)


@pytest.mark.parametrize("case", ["lora"])
def test_what_its_merger_made_of_lora(written, case, tmp_path):
    """The base, which no step changes, and `lora_adapter/` beside it: the change or the sum, and not the base alone."""
    folder = written.folder(case)
    names = {series.name for series in driftline.open_trajectory(folder / "merged")}
    if "model.embed_tokens.weight" in names:
        check(folder / "merged", folder / "rounded_truth", tmp_path, rounding=PRODUCTS)
    else:
        check(folder / "merged", folder / "rounded_products", tmp_path, forecast=False, rounding=PRODUCTS)
