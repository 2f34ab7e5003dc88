"""What can be asked of a forecast, what `auto` makes of it, and what is refused before a weight is read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import ALL, SHAPES, STEPS, MakeRun, forecast, slowing, stored

from conftest import walk_weights
from driftline import InputError, open_trajectory
from driftline.files.record import write_record
from driftline.forecast.request import ForecastRequest, parse_targets
from driftline.linearity.analysis import analyze
from driftline.writing.extrapolate import extrapolate
from driftline.writing.storage import parse_size


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3))


def test_alpha_and_from(run: Path, tmp_path: Path) -> None:
    by_step = forecast(run, tmp_path / "a", targets=(110,), seen=(50, 20)).records[0]
    by_alpha = forecast(run, tmp_path / "b", alpha=3.0, seen=(20, 50)).records[0]
    assert by_step["coefficients"] == by_alpha["coefficients"] == {"20": -2.0, "50": 3.0}
    assert by_step["alpha"] == by_alpha["alpha"] == 3.0
    assert by_alpha["target"] == 110
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_saved_analysis_gives_the_same_forecast_without_a_scan(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "an").mkdir()
    summary = analyze(open_trajectory(run), tmp_path / "an")
    write_record(tmp_path / "an" / "summary.json", summary)
    scanned = forecast(run, tmp_path / "a", targets=(120,), method="relex").records[0]
    monkeypatch.setattr("driftline.forecast.observations.scan", lambda *a, **k: pytest.fail("weights were read"))
    kept = forecast(run, tmp_path / "b", targets=(120,), method="relex", analysis=tmp_path / "an").records[0]
    assert kept["coefficients"] == scanned["coefficients"]
    with pytest.raises(InputError, match="is of other steps, another clock or other tensors"):
        extrapolate(
            open_trajectory(run, steps="0:50"),
            tmp_path / "c",
            ForecastRequest((70,), "relex", analysis=tmp_path / "an"),
        )
    with pytest.raises(InputError, match="is not a result of driftline analyze"):
        forecast(run, tmp_path / "c", targets=(120,), method="relex", analysis=tmp_path / "none")


@pytest.mark.parametrize(
    ("summary", "reason"),
    [("[]", "Expected `object`"), ('{"kind": "weights", "dreams": 1}', "unknown field `dreams`"), ("{", "truncated")],
)
def test_an_analysis_that_is_damaged_is_refused(run: Path, tmp_path: Path, summary: str, reason: str) -> None:
    (tmp_path / "an").mkdir()
    (tmp_path / "an" / "summary.json").write_text(summary)
    sentence = rf"an is not a result of driftline analyze \(.*{reason}.*\): give its --out folder"
    with pytest.raises(InputError, match=sentence):
        forecast(run, tmp_path / "out", targets=(120,), method="relex", analysis=tmp_path / "an")


def test_reconstruct_and_interpolate(run: Path, tmp_path: Path) -> None:
    full = forecast(run, tmp_path / "full", targets=(50,), method="relex", rank=len(STEPS), reconstruct=True)
    assert full.records[0]["reconstruct"] is True
    found = load_file(tmp_path / "full" / "model.safetensors")
    for name, value in stored(run, 50).items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    between = extrapolate(open_trajectory(run), tmp_path / "mid", ForecastRequest((44,), interpolate=True), ALL)
    assert between.records[0]["coefficients"] == pytest.approx({"40": 0.6, "50": 0.4})
    assert between.records[0]["method"] == "two-point"


def test_the_learning_rate_clock_goes_on_at_the_last_rate(run: Path, tmp_path: Path) -> None:
    """Rate 2 to step 50, then 1: from 0 and 90 the clock runs 0, 140; step 120 is at 170."""
    history = [{"step": step, "learning_rate": 2.0 if step <= 50 else 1.0} for step in range(1, 91)]
    (run / "checkpoint-90" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    record = forecast(run, tmp_path / "out", targets=(120,), clock="lr").records[0]
    assert record["coefficients"]["90"] == pytest.approx(170 / 140)
    history[-1]["learning_rate"] = 0.0
    (run / "checkpoint-90" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    with pytest.raises(InputError, match="learning rate is 0 at step 90, the end of its schedule"):
        forecast(run, tmp_path / "no", targets=(120,), clock="lr")


class TestAuto:
    def test_a_straight_run_is_forecast_as_far_as_back_tests_carry(
        self, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        run = make_run(walk_weights(rng, list(range(0, 160, 10)), SHAPES, drift=1.0))
        near = forecast(run, tmp_path / "near", targets=(160,), method="auto")
        assert not near.warning
        assert near.records[0]["method"] == "two-point"
        assert "beat holding the last one up to" in near.sentence
        far = forecast(run, tmp_path / "far", targets=(2000,), method="auto")
        assert far.warning
        assert "step 2000 lies further" in far.sentence
        assert "--method two-point goes all the way, untested" in far.sentence
        record = far.records[0]
        assert record["reached"] < 300
        assert record["coefficients"]["150"] == pytest.approx(record["reached"] / 150)

    def test_where_damped_reaches_further_the_sentence_says_so(
        self, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        steps = list(range(0, 160, 10))
        slow = forecast(make_run(slowing(rng, steps, 0.6), run="slow"), tmp_path / "a", targets=(400,), method="auto")
        said = re.search(r"--method damped moves less and was good to (\d+) steps", slow.sentence)
        assert said is not None
        assert 0 < slow.records[0]["reached"] - 150 < float(said[1])
        slower = forecast(
            make_run(slowing(rng, steps, 0.5), run="slower"), tmp_path / "b", targets=(400,), method="auto"
        )
        assert slower.records[0]["method"] == "hold"
        assert "--method damped moves less and was good to" in slower.sentence

    def test_a_driftless_run_is_held_with_a_warning(
        self, make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
    ) -> None:
        run = make_run(walk_weights(rng, list(range(0, 3200, 200)), SHAPES))
        outcome = forecast(run, tmp_path / "out", targets=(3600,), method="auto")
        assert outcome.warning
        assert "drift is not told from chance" in outcome.sentence
        found = load_file(tmp_path / "out" / "model.safetensors")
        for name, value in stored(run, 3000).items():
            np.testing.assert_array_equal(found[name], value)

    def test_two_checkpoints_are_taken_at_their_word_with_a_warning(self, run: Path, tmp_path: Path) -> None:
        outcome = extrapolate(open_trajectory(run, steps="0,90"), tmp_path / "out", ForecastRequest((180,)), ALL)
        assert outcome.warning
        assert "not back-tested: 2 checkpoints are too few" in outcome.sentence
        assert outcome.records[0]["alpha"] == 2.0


BAD = [
    ({"targets": (50,)}, "--to 50 is not beyond the observed steps, 0 to 90"),
    ({"targets": (90,)}, "not beyond the observed steps"),
    ({"targets": (5,), "seen": (20, 50)}, "--to 5 is before the observed steps, 20 to 50"),
    ({"targets": (45,), "method": "relex", "reconstruct": True}, "--to 45: --reconstruct rebuilds observed steps"),
    ({"targets": (120,), "reconstruct": True}, "add --method relex"),
    ({"targets": (120,), "seen": (50, 50)}, "--from 50 50 names a step twice"),
    ({"targets": (120,), "seen": (50,)}, r"one checkpoint \(step 50\) makes no line"),
    ({"targets": (120,), "seen": (50, 55)}, "--from 55: not in the run: choose among the steps 0, 10"),
    ({"alpha": float("nan")}, "--alpha nan is not a finite number"),
    ({"alpha": float("inf")}, "--alpha inf is not a finite number"),
    ({"alpha": 0.5}, "does not go beyond the late checkpoint"),
    ({"alpha": 2.0, "targets": (120,)}, "--alpha and --to both say"),
    ({"alpha": 2.0, "method": "blup"}, "--alpha belongs to --method two-point"),
    ({}, "no target: say with --to"),
    ({"targets": (120,), "method": "two_point"}, "'two_point' is unknown: did you mean two-point"),
    ({"targets": (120,), "rank": 0, "method": "relex"}, "--rank 0"),
    ({"targets": (120,), "clock": "lr"}, "--clock lr needs the learning rate"),
    ({"targets": (120,), "target_score": 0.5}, "belong to --method alpharl"),
]


@pytest.mark.parametrize(("request_", "complaint"), BAD, ids=[complaint[:30] for _, complaint in BAD])
def test_bad_requests_are_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, request_: dict, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        forecast(run, tmp_path / "out", **request_)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_targets_and_sizes() -> None:
    assert parse_targets("1200") == (1200,)
    assert parse_targets("1200,1400") == (1200, 1400)
    assert parse_targets("1200:1600:200") == (1200, 1400, 1600)
    for text in ("", "x", "-5", "1.5", "1600:1200:100", "1:2", "10,10"):
        with pytest.raises(InputError, match="--to"):
            parse_targets(text)
    assert [parse_size(text) for text in ("5GB", "200 MB", "1KiB", "7", "1.5k", "2B")] == [
        5 * 10**9,
        2 * 10**8,
        1024,
        7,
        1500,
        2,
    ]
    for text in ("", "0", "GB", "5XB", "-1GB"):
        with pytest.raises(InputError, match="--shard-size"):
            parse_size(text)
