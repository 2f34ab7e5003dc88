"""torchtitan's distributed checkpoints: whole, replicated, saved while it trains; and its export at the last step."""

import pytest
from compare import check, check_without_scale
from environments import Written, write

import driftline


@pytest.fixture(scope="module")
def written(request, tmp_path_factory) -> Written:
    return write("torchtitan", request, tmp_path_factory)


@pytest.mark.parametrize(
    "case",
    [
        "one_rank",
        "two_ranks",
        "tied",
        "all_state_at_the_end",
        "asynchronous",
        "rounded_at_the_end",
        "replicated",
        "under_verl",
    ],
)
def test_its_own_names(written, case, tmp_path):
    """Which no configuration of transformers goes with, so no model can be made."""
    folder = written.folder(case)
    check(folder / "run", folder / "truth", tmp_path, forecast=False)
    with pytest.raises(driftline.InputError, match="--base"):
        driftline.extrapolate(folder / "run", tmp_path / "out", to=60, method="two-point")


@pytest.mark.parametrize("case", ["for_transformers", "for_transformers_sharded"])
def test_a_last_step_by_other_names_does_not_empty_the_run(written, case, tmp_path):
    """The export is left out with a word, and the steps before it are read whole."""
    folder = written.folder(case)
    trajectory = driftline.open_trajectory(folder / "run")
    assert trajectory.steps == (1, 10, 20, 30)
    assert trajectory.skipped[40]
    check(folder / "run", folder / "truth", tmp_path, steps=(1, 10, 20, 30), forecast=False)


@pytest.mark.parametrize("case", ["for_transformers", "for_transformers_sharded"])
def test_the_export_for_transformers(written, case, tmp_path):
    folder = written.folder(case)
    run = [f"40={folder}/run/checkpoint/step-40"]
    check(run, folder / "transformers", tmp_path, steps=(40,), forecast=False)


@pytest.mark.parametrize("case", ["lora"])
def test_factors_whose_scale_is_nowhere(written, case, tmp_path):
    """torchtitan saves `lora_a` and `lora_b`, and alpha only in its configuration."""
    folder = written.folder(case)
    check_without_scale(folder / "run", folder / "products", tmp_path, scale=4)
