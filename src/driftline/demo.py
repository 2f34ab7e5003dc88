"""`driftline demo`: the main job on this machine, from the shipped base model to the report page.

A real GRPO run is made on the spot; nothing is canned. Each stage that is complete in the demo's folder
is kept, so a second call continues from what is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.trajectory import open_trajectory
from driftline.checkpoints.writer import json_text, output_folder
from driftline.errors import InputError
from driftline.linearity.analysis import analyze
from driftline.progress import progress_bar
from driftline.report import analysis, terminal
from driftline.training.lab.grpo import LabRun, train

FULL = LabRun()
QUICK = LabRun(steps=16, save_every=2, completions_per_step=64, held_out_problems=64)


def demo(out: Path, *, quick: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train, inspect, analyze, report in `out`; returns the analysis' summary."""
    settings = QUICK if quick else FULL
    run, result = out / "run", out / "analysis"
    rows = _finished_run(run, settings)
    if rows is None:
        print(f"1/3 training: {settings.steps} steps of GRPO on a small model, in {run}", flush=True)
        rows = train(run, settings, overwrite=True, on_step=terminal.training_step(settings.steps, quiet=quiet))
    else:
        print(f"1/3 training: already done, in {run}")
    print("\n2/3 inspecting the run\n", flush=True)
    trajectory = open_trajectory(run)
    terminal.inspection(inspect(trajectory))
    print("\n3/3 analysing every weight of every checkpoint\n", flush=True)
    with output_folder(result, overwrite=True) as folder:
        with progress_bar("reading weights", trajectory.nbytes, quiet=quiet) as advance:
            summary = analyze(trajectory, folder, progress=advance)
        (folder / "summary.json").write_text(json_text(summary))
        analysis.write(folder, summary, f"driftline analyze {run} --out {result}")
    terminal.accuracy(rows)
    print()
    terminal.analysis(summary, result)
    return summary


def _finished_run(run: Path, settings: LabRun) -> list[dict[str, float]] | None:
    """The accuracy rows of a finished run with these settings, or None where training has to start."""
    try:
        record = json.loads((run / "run.json").read_text())
        rows = [json.loads(line) for line in (run / "accuracy.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        if run.is_dir() and any(run.iterdir()):
            raise InputError(f"{run} holds files that are not the demo's: choose another folder with --out") from None
        return None
    if record.get("completed") and any(record.get(key) != value for key, value in asdict(settings).items()):
        raise InputError(f"{run} holds a finished run with other settings: choose another folder with --out to keep it")
    return rows if record.get("completed") else None
