"""Re-grounding around a command: a fake trainer that writes real checkpoints; kills at any point; and TRL itself (slow)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from driftline.checkpoints.jumps import read_jumps
from driftline.errors import InputError
from driftline.files.record import read_record, write_record
from driftline.training.command import CommandFailed
from driftline.training.driver import AskedRegrounding, RegroundingPlan, reground
from driftline.training.furthest import furthest_checkpoint

DRIFT = 0.25  # exact in binary, as are all forecasts of it

TRAINER = """
    import json, os, shutil, signal, sys, time
    from pathlib import Path
    from safetensors.numpy import load_file, save_file

    model, steps, output, mode = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    with open(output.parent.parent.parent / "calls.txt", "a") as calls:
        print(output.parent.name, model.name, file=calls)
    print("started from", model, flush=True)
    trouble = output.parent.parent.parent / "trouble"
    if mode == "fails":
        print("\\n".join(f"line {i}" for i in range(40)))
        sys.exit(7)
    if mode == "killed-at-start" and output.parent.name == "cycle-2" and trouble.exists():
        (output / "checkpoint-1").mkdir(parents=True)
        trouble.unlink()
        os.kill(os.getppid(), signal.SIGKILL)
        until = time.monotonic() + 60
        while not trouble.with_name("refused").exists() and time.monotonic() < until:
            time.sleep(0.05)  # it outlives the driver
        sys.exit(0)
    weights = load_file(model / "model.safetensors")
    for step in range(1, steps + 1):
        for name in weights:
            weights[name] = weights[name] + weights[name].dtype.type(DRIFT)
        if step % 2 == 0:
            folder = output / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            save_file(weights, folder / "model.safetensors")
            shutil.copy(model / "config.json", folder)
    if mode == "killed-at-end" and output.parent.name == "cycle-2" and trouble.exists():
        trouble.unlink()
        os.kill(os.getppid(), signal.SIGKILL)
""".replace("DRIFT", str(DRIFT))


def base_model(folder: Path) -> Path:
    folder.mkdir()
    save_file({"w": np.ones((4, 3), np.float32), "norm.weight": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "test"}))
    return folder


@pytest.fixture
def asked(tmp_path):
    def make(mode: str = "well", **changes) -> RegroundingPlan:
        script = tmp_path / "trainer.py"
        script.write_text(textwrap.dedent(TRAINER))
        base = tmp_path / "base"
        if not base.exists():
            base_model(base)
        command = (sys.executable, str(script), "{model}", "{steps}", "{output}", mode)
        return RegroundingPlan(**{"model": base, "m": 4, "n": 12, "cycles": 3, "command": command} | changes)

    return make


def calls(tmp_path: Path) -> list[str]:
    return [line.split()[0] for line in (tmp_path / "calls.txt").read_text().splitlines()]


def test_cycles_train_project_and_are_recorded(tmp_path, asked):
    sentences: list[str] = []
    jumps = reground(asked(), tmp_path / "out", say=sentences.append)
    assert read_jumps(tmp_path / "out") == jumps
    assert list(json.loads((tmp_path / "out" / "jumps.json").read_text())[0]) == [
        "cycle",
        "trained_from",
        "trained_to",
        "projected_to",
        "alpha",
        "accepted",
        "model",
        "checkpoint",
        "projected",
        "seconds_trained",
        "seconds_projected",
    ]
    assert [(j.cycle, j.trained_from, j.trained_to, j.projected_to) for j in jumps] == [
        (1, 0, 4, 16),
        (2, 16, 20, 32),
        (3, 32, 36, 48),
    ]
    assert all(j.alpha == 4 and j.accepted for j in jumps)
    final = load_file(tmp_path / "out" / "final" / "model.safetensors")
    np.testing.assert_array_equal(final["w"], np.full((4, 3), 1 + 48 * DRIFT, np.float32))
    np.testing.assert_array_equal(
        final["norm.weight"], np.full(3, 1 + 12 * DRIFT, np.float32)
    )  # trained, never projected
    assert (tmp_path / "out" / "cycle-2" / "log.txt").read_text().startswith("started from")
    assert len(sentences) == 6
    assert "training 4 steps" in sentences[0]


@pytest.mark.parametrize("moment", ["killed-at-start", "killed-at-end"])
def test_a_killed_call_goes_on_without_repeating_what_is_finished(tmp_path, asked, moment):
    """Killed while cycle 2 trains, its output half written; and after training, before the projection."""
    request, whole = asked(moment), tmp_path / "whole"
    reground(request, whole)
    (tmp_path / "calls.txt").unlink()
    (tmp_path / "trouble").touch()
    code = (
        "import sys, json; from pathlib import Path; from driftline.training.driver import *\n"
        "asked = json.loads(sys.argv[1]); asked['model'] = Path(asked['model']); asked['command'] = tuple(asked['command'])\n"
        "reground(RegroundingPlan(**asked), Path(sys.argv[2]))"
    )
    fields = {"model": str(request.model), "m": 4, "n": 12, "cycles": 3, "command": request.command}
    call = [sys.executable, "-c", code, json.dumps(fields), str(tmp_path / "out")]
    assert subprocess.run(call, check=False).returncode == -9
    assert calls(tmp_path) == ["cycle-1", "cycle-2"]
    jumps, refusals = None, []
    while jumps is None:
        try:
            jumps = reground(request, tmp_path / "out")
        except InputError as error:
            refusals.append(str(error))
            (tmp_path / "refused").touch()
            time.sleep(0.1)
    assert all("in use by another re-grounding" in refusal for refusal in refusals)
    assert refusals or moment == "killed-at-end"  # as long as the trainer that was left behind lives
    assert calls(tmp_path) == ["cycle-1", "cycle-2", "cycle-2", "cycle-3"]
    assert [jump.projected_to for jump in jumps] == [16, 32, 48]
    for name in ("final", "cycle-2/projected"):
        one, two = (load_file(out / name / "model.safetensors") for out in (whole, tmp_path / "out"))
        assert all(np.array_equal(one[key], two[key]) for key in one)
    again = reground(request, tmp_path / "out")
    assert again == jumps
    assert len(calls(tmp_path)) == 4


def test_what_was_trained_is_not_trained_again(tmp_path, asked):
    """Stopped between the end of training and the end of the projection."""
    out = tmp_path / "out"
    reground(asked(cycles=1), out)
    (out / "jumps.json").unlink()
    shutil.rmtree(out / "final")
    reground(asked(cycles=1), out)
    assert calls(tmp_path) == ["cycle-1"]
    assert (out / "final" / "model.safetensors").is_file()


def test_more_cycles_can_be_asked_for_later(tmp_path, asked):
    for cycles in (1, 3):
        reground(asked(cycles=cycles), tmp_path / "out")
        final = load_file(tmp_path / "out" / "final" / "model.safetensors")
        np.testing.assert_array_equal(final["w"], np.full((4, 3), 1 + 16 * cycles * DRIFT, np.float32))
    assert calls(tmp_path) == ["cycle-1", "cycle-2", "cycle-3"]


def test_a_failing_command_stops_with_its_code_and_last_lines(tmp_path, asked):
    with pytest.raises(CommandFailed) as caught:
        reground(asked("fails"), tmp_path / "out")
    assert caught.value.exit_code == 7
    assert str(caught.value).endswith("line 38\nline 39")
    assert "line 20" not in str(caught.value)
    assert not (tmp_path / "out" / "jumps.json").exists()
    with pytest.raises(CommandFailed, match="cannot be started: /no/such"):
        reground(asked(command=("/no/such", "{model}{steps}{output}")), tmp_path / "other")


def test_two_at_once_are_refused(tmp_path, asked):
    import fcntl

    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="in use by another re-grounding"):
        reground(asked(), tmp_path / "out")
    os.close(descriptor)


def test_a_request_of_the_former_release_is_read_and_written_the_same(tmp_path):
    former = Path(__file__).parents[1] / "records" / "former" / "reground-request.json"
    request = read_record(former, AskedRegrounding, what="driftline reground")
    write_record(tmp_path / "again.json", request)
    assert json.dumps(json.loads((tmp_path / "again.json").read_text())) == json.dumps(json.loads(former.read_text()))


@pytest.mark.parametrize("damaged", ["[]", "{", '{"model": "start"}'])
def test_a_request_that_is_damaged_is_refused(tmp_path, asked, damaged):
    reground(asked(cycles=1), tmp_path / "out")
    (tmp_path / "out" / "reground.json").write_text(damaged)
    with pytest.raises(InputError, match=r"reground\.json is not what driftline reground writes \(.+\): make it again"):
        reground(asked(cycles=1), tmp_path / "out")


def test_another_request_and_foreign_folders_are_refused(tmp_path, asked):
    out = tmp_path / "out"
    reground(asked(cycles=1), out)
    with pytest.raises(InputError, match="asked otherwise"):
        reground(asked(cycles=1, n=2), out)
    assert reground(asked(cycles=1, n=2), out, overwrite=True)[0].projected_to == 6
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="--out"):
            reground(asked(), tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"m": 0}, "--m is 0"),
        ({"n": 0}, "--n is 0"),
        ({"cycles": -1}, "--cycles is -1"),
        ({"command": ()}, "no command"),
        ({"command": ("train", "{model}")}, r"says nowhere \{steps\} or \{output\}"),
        ({"preset": "nemo"}, "--preset 'nemo' is unknown: choose verl"),
        ({"dtype": "int8"}, "--dtype 'int8'"),
        ({"model": Path("Qwen/Qwen3-8B")}, "is not a local folder"),
    ],
)
def test_requests_that_cannot_work_are_refused(tmp_path, asked, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        reground(asked(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_furthest_complete_checkpoint_is_taken(tmp_path):
    output = tmp_path / "trained"
    with pytest.raises(InputError, match="left nothing at"):
        furthest_checkpoint(output, 8)
    output.mkdir()
    with pytest.raises(InputError, match="left no complete checkpoint"):
        furthest_checkpoint(output, 8)
    for step in (2, 4):
        base_model(output / f"checkpoint-{step}")
    (output / "checkpoint-6").mkdir()
    (output / "checkpoint-6" / "config.json").touch()  # still being written
    assert furthest_checkpoint(output, 8) == (4, output / "checkpoint-4")
    with pytest.raises(InputError, match=r"step 4 in .* although \{steps\} was 3"):
        furthest_checkpoint(output, 3)
    shutil.copy(output / "checkpoint-2" / "model.safetensors", output)  # the model saved when training ended
    assert furthest_checkpoint(output, 8) == (8, output)


def test_verl_is_filled_in_and_its_checkpoints_are_found(tmp_path, asked):
    script = tmp_path / "verl.py"
    script.write_text(
        textwrap.dedent("""
        import shutil, sys
        from pathlib import Path
        given = dict(word.split("=", 1) for word in sys.argv[1:])
        assert given["trainer.save_freq"] == "4" and given["trainer.resume_mode"] == "auto", given
        out = Path(given["trainer.default_local_dir"]) / f"global_step_{given['trainer.total_training_steps']}" / "actor"
        if given["shards"] == "yes":
            out.mkdir(parents=True)
            (out / "model_world_size_1_rank_0.pt").touch()
        else:
            shutil.copytree(given["actor_rollout_ref.model.path"], out / "huggingface")
    """)
    )
    words = (sys.executable, str(script), "trainer.resume_mode=auto")
    jumps = reground(asked(command=(*words, "shards=no"), preset="verl", cycles=1), tmp_path / "out")
    assert str(jumps[0].checkpoint).endswith("cycle-1/trained/global_step_4/actor/huggingface")
    with pytest.raises(InputError, match="shards only"):
        reground(asked(command=(*words, "shards=yes"), preset="verl", cycles=1), tmp_path / "other")


def test_a_trainer_that_saves_in_another_dtype_gets_its_own_back(tmp_path, asked):
    request = asked(cycles=2)
    weights = load_file(request.model / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in weights.items()}, request.model / "model.safetensors")
    script = Path(request.command[1])
    script.write_text(script.read_text().replace("weights[name].dtype.type(", "__import__('numpy').float32("))
    reground(request, tmp_path / "out")
    final = load_file(tmp_path / "out" / "final" / "model.safetensors")
    assert final["w"].dtype == np.float32
    np.testing.assert_array_equal(final["w"], np.full((4, 3), 1 + 32 * DRIFT, np.float32))


@pytest.mark.slow
def test_a_real_trl_run_as_the_command(tmp_path):
    """Two cycles of GRPO on the lab's base: what each was started from and left is what the record says."""
    from driftline import open_trajectory
    from driftline.lab.model import shipped_base

    script = tmp_path / "grpo.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
        from driftline.lab.model import load
        from driftline.evaluation.tasks.sums import is_right, problems

        source, steps, output = sys.argv[1:]
        model, tokenizer = load(source)

        def right(completions, answer, **kwargs):
            return [float(is_right(text, wanted)) for text, wanted in zip(completions, answer, strict=True)]

        args = GRPOConfig(
            output_dir=output, max_steps=int(steps), save_steps=2, per_device_train_batch_size=16, num_generations=8,
            max_completion_length=16, learning_rate=1e-4, report_to="none", use_cpu=True, bf16=False,
            gradient_checkpointing=False, dataloader_pin_memory=False,
        )
        GRPOTrainer(
            model=model, reward_funcs=[right], args=args, train_dataset=Dataset.from_list(problems(64, 0)),
            processing_class=tokenizer,
        ).train()
    """)
    )
    command = (sys.executable, str(script), "{model}", "{steps}", "{output}")
    jumps = reground(RegroundingPlan(shipped_base(), 4, 6, 2, command), tmp_path / "out")
    assert [(jump.trained_to, jump.projected_to) for jump in jumps] == [(4, 10), (14, 20)]
    for jump in jumps:
        early, late, ahead = (
            open_trajectory([f"0={getattr(jump, key)}"])["model.layers.0.mlp.up_proj.weight"]
            for key in ("model", "checkpoint", "projected")
        )
        values = []
        for series in (early, late, ahead):
            out = np.empty((1, series.size), np.float32)
            series.read(0, series.size, out, np.empty(8 * series.size, np.uint8))
            values.append(out[0])
        assert late.dtype == ahead.dtype == "F32"
        np.testing.assert_allclose(values[2], values[0] + 2.5 * (values[1] - values[0]), rtol=1e-5, atol=1e-7)
        assert np.abs(values[1] - values[0]).max() > 0
    from driftline.lab.model import load

    load(tmp_path / "out" / "final")  # a model like any other
