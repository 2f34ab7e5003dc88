"""Several analyses side by side."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from conftest import walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.files.record import write_record
from driftline.linearity.analysis import analyze
from driftline.linearity.comparison import compare
from driftline.report import comparison as page

MakeRun = Callable[..., Path]


def analysed(make_run: MakeRun, rng: np.random.Generator, folder: Path, drift: float) -> Path:
    run = make_run(walk_weights(rng, list(range(0, 200, 20)), {"a": (50, 40)}, drift=drift), run=f"run-{drift}")
    folder.mkdir()
    write_record(folder / "summary.json", analyze(open_trajectory(run), folder))
    return folder


def test_rows_hold_each_result_beside_its_null(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    folders = [analysed(make_run, rng, tmp_path / name, drift) for name, drift in (("<b>", 0.3), ("walk", 0.0))]
    record = compare(folders)
    drifting, walk = record.rows
    assert (drifting.linear, walk.linear) == (True, False)
    assert msgspec.to_builtins(drifting.r2) == json.loads((folders[0] / "summary.json").read_text())["r2"]
    assert drifting.increment_cosine is not None
    assert drifting.null_increment_cosine is not None
    assert drifting.increment_cosine > drifting.null_increment_cosine + 0.1
    page.write(tmp_path, record, command="driftline compare")
    html = (tmp_path / "report.html").read_text()
    assert "1 of 2 show drift above chance" in html
    assert "<b>" not in html.replace('<div class="figure"><b>', "").split("</script>", 1)[1].split("<script")[0]


def test_what_is_no_result_is_refused(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    good = analysed(make_run, rng, tmp_path / "good", 0.3)
    with pytest.raises(InputError, match="name two results"):
        compare([good])
    with pytest.raises(InputError, match="named twice"):
        compare([good, good])
    with pytest.raises(InputError, match=r"absent/summary\.json cannot be read"):
        compare([good, tmp_path / "absent"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text("[]")
    with pytest.raises(InputError, match="is not a summary of analyze"):
        compare([good, tmp_path / "other"])
