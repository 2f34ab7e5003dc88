"""A real RLVR run on this machine, with TRL: a model of the lab, a verifiable task, an algorithm.

fp32 weights, constant learning rate, no weight decay, no KL term, reward 1 for exactly the right answer. The run
is a folder in TRL's layout with model-only checkpoints, step 0 included, and beside them

    run.json         what made it: settings, optimizer, versions, and whether it was completed
    settings.toml    the settings alone: driftline train --config RUN/settings.toml makes it again
    accuracy.jsonl   greedy and sampled accuracy on held-out problems as it went
    held_out.jsonl   those problems with their answers, for rollouts, evaluate and sweep
    jumps.json       where re-grounding projected it ahead
    base/            of a LoRA adapter: the model that it is of

The folder appears with `run.json` in it. A run that was stopped is begun again by the same call.

What RL does here by default: the base knows the arithmetic (greedy accuracy is high) but errs when sampled; RL
sharpens what it knows. On the task strategy it moves the model from one way of answering to another.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from driftline.errors import InputError
from driftline.evaluation.tasks import Task
from driftline.files import remote
from driftline.files.atomic import replace_text
from driftline.files.lines import write_lines
from driftline.files.lock import Held, hold
from driftline.files.output import clear_leftovers, output_folder, refuse_occupied
from driftline.files.record import write_record
from driftline.lab.record import MARK, OptimizerUsed, RunRecord, ScoredStep, stopped
from driftline.lab.settings import LabRun, check, toml
from driftline.lab.tasks import LabTask, lab_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = "base"
_POOL = 4096  # training problems
_VALIDATION, _VALIDATION_SAMPLES = (
    64,
    4,
)  # of them, the last, and how often each is sampled, when a jump's length is chosen

Say = Callable[[str], None]


def train(
    out: Path,
    settings: LabRun,
    *,
    overwrite: bool = False,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, logged: None,
    say: Say = lambda sentence: None,
    callbacks: Sequence[Any] = (),
) -> list[ScoredStep]:
    """Make the run in `out`; returns the rows of `accuracy.jsonl`.

    Under `accelerate launch` the steps are shared by all processes, and the first one writes. An incomplete run of
    the same settings is begun again.

    Args:
        on_step: called after each step with its number and what the trainer logged (reward, ...).
        say: told what a warm-up does, if one is made, and that an incomplete run is removed.
        callbacks: more of them for the trainer.

    Raises:
        InputError: settings that cannot work, something is not installed, or `out` is occupied.
    """
    check(settings)
    replaces = _may_replace(out, settings, overwrite=overwrite, say=say)
    task = lab_task(settings.task, settings.difficulty)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import trl
        from accelerate import PartialState
        from datasets import Dataset
        from transformers import PrinterCallback, set_seed

        from driftline.lab.follow import Follow
        from driftline.lab.trainer import adapted, longest_completion, reward_of, rows_of, trainer_of
    except ImportError as error:
        raise InputError(f"the lab needs {error.name}: pip install 'driftline[train]'") from error

    _settle_libraries()
    everyone = PartialState(cpu=settings.device == "cpu")
    if settings.completions_per_step % everyone.num_processes:
        raise InputError(
            f"{settings.completions_per_step} completions per step cannot be shared by {everyone.num_processes} processes: choose another --prompts-per-step or --rollouts"
        )
    model, tokenizer = _base(everyone, settings, task, say)
    chat = tokenizer.chat_template is not None
    trained = task.training(_POOL, settings.seed, chat=chat, system=settings.system)
    held_out = task.held_out(settings.held_out_problems, settings.seed, chat=chat, system=settings.system)
    longest = settings.max_new_tokens or longest_completion(task, trained, tokenizer)
    record = _record(settings, longest, model, everyone.num_processes)
    writes = everyone.is_main_process
    if writes:
        with output_folder(out, overwrite=replaces, mark=MARK) as folder:
            _begin(folder, record, held_out, tokenizer)
            if settings.lora_rank is not None:
                model.save_pretrained(folder / BASE)
                tokenizer.save_pretrained(folder / BASE)
    with _held(out, really=writes):
        everyone.wait_for_everyone()
        set_seed(settings.seed)
        model = adapted(model, settings, out / BASE)
        reground = _regrounding(settings, model, tokenizer, trained, longest)
        follow = Follow(
            out, settings, model, tokenizer, task, held_out, longest, writes, on_step=on_step, reground=reground
        )
        trainer = trainer_of(trl, settings, out, longest, everyone.num_processes)(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows_of(settings, task, trained, tokenizer)),
            callbacks=[*callbacks, *([] if reground is None else [reground]), follow],
            **({} if settings.algorithm == "sft" else {"reward_funcs": [reward_of(trained, settings)]}),
        )
        trainer.remove_callback(PrinterCallback)
        if settings.lora_rank is None:  # of an adapter step 0 is its base
            trainer.save_model(str(out / "checkpoint-0"))
        follow.started = time.monotonic()
        follow.score(0)
        trainer.train()
        if writes:
            seconds = time.monotonic() - follow.started
            write_record(out / MARK, msgspec.structs.replace(record, completed=True, seconds=seconds))
        everyone.wait_for_everyone()
    return follow.rows


def _may_replace(out: Path, settings: LabRun, *, overwrite: bool, say: Say) -> bool:
    """Whether what lies in `out` is replaced: as asked, or because it is an incomplete run of these settings.

    Raises:
        InputError: something else lies there, or a process trains there.
    """
    remote.refuse_output(out)
    clear_leftovers(out)
    again = not overwrite and stopped(out, settings)
    refuse_occupied(out, overwrite=overwrite or again, mark=MARK)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first alone holds a folder
        return overwrite or again
    with _held(out, really=(out / MARK).is_file()):
        if again:
            say(f"{out} holds an incomplete run of these settings: it is removed, and the run begins again at step 0")
    return overwrite or again


@contextmanager
def _held(out: Path, *, really: bool) -> Iterator[None]:
    """Keep other processes from training in `out`, where its file system can tell."""
    try:
        descriptor = hold(out) if really else None
    except Held as error:
        raise InputError(
            f"another process trains in {out}: wait until it is done, or choose another folder with --out"
        ) from error
    except OSError:
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _settle_libraries() -> None:
    """All cores, and no word from the libraries that a run is made of."""
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|accelerate)\b")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _base(everyone: Any, settings: LabRun, task: LabTask, say: Say) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What the run starts from; of several processes the first makes it, if it was not there."""
    from driftline.lab.warmup import base

    with everyone.main_process_first():
        if everyone.is_main_process:
            return base(settings.model, task, steps=settings.warm_up, say=say)
    return base(settings.model, task, steps=settings.warm_up)


def _record(settings: LabRun, longest: int, model: PreTrainedModel, processes: int) -> RunRecord:
    """Of a run that is not completed yet."""
    from driftline.lab.trainer import ADAM_BETA1

    beta1 = ADAM_BETA1 if settings.optimizer == "adamw" else 0.0
    return RunRecord(
        optimizer=OptimizerUsed(name=settings.optimizer, adam_beta1=beta1),
        settings=settings,
        max_new_tokens=longest,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        processes=processes,
        versions={name: version(name) for name in ("torch", "transformers", "trl")},
        completed=False,
    )


def _begin(folder: Path, record: RunRecord, held_out: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    """What a run has before its first step."""
    write_record(folder / MARK, record)
    replace_text(folder / "settings.toml", toml(record.settings))
    problems = (
        {**problem.asked(chats=tokenizer.chat_template is not None), "answer": problem.answer}
        for problem in held_out.problems
    )
    write_lines(folder / "held_out.jsonl", problems)


def _regrounding(
    settings: LabRun, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained: Task, longest: int
) -> Any:
    if settings.m is None or settings.n is None:
        return None
    from driftline.lab.scoring import accuracy
    from driftline.training.regrounding import RegroundingCallback

    validation = replace(trained, problems=trained.problems[-_VALIDATION:])

    def validate(_: Any) -> float:
        scores = accuracy(
            model,
            tokenizer,
            validation,
            seed=settings.seed,
            samples=_VALIDATION_SAMPLES,
            temperature=settings.temperature,
            max_new_tokens=longest,
            batch_size=settings.micro_batch or _VALIDATION * _VALIDATION_SAMPLES,
        )
        return scores.sampled

    return RegroundingCallback(
        settings.m,
        settings.n,
        method=settings.jump,
        accept=settings.accept,
        validate=validate if settings.accept == "validation" else None,
        spacing=settings.spacing,
    )
