"""The command line, as a table of contents: each command opens a run, calls one room, says what it found."""

from __future__ import annotations

import difflib
import itertools
import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from driftline._version import __version__
from driftline.errors import InputError
from driftline.files.remote import redacted
from driftline.lab.settings import LabRun, read_config

app = tyro.extras.SubcommandApp()
_trainer: list[str] = []  # the command after `--`, which is not ours to parse

Run = Annotated[
    Positional[tuple[str, ...]],
    arg(
        metavar="RUN",
        help="a folder of checkpoints, here or at an address such as hf://owner/name; or several STEP=PATH",
    ),
]
Steps = Annotated[str | None, arg(help="steps to use: FIRST:LAST:STRIDE (ends included) or a list 0,100,500")]
Base = Annotated[str | None, arg(metavar="MODEL", help="a model folder to use as step 0")]
Out = Annotated[Path, arg(metavar="DIR", help="folder to write; must be empty or absent")]
Overwrite = Annotated[bool, arg(help="replace what driftline wrote there before")]
Quiet = Annotated[bool, arg(help="print results only, no progress")]
Json = Annotated[bool, arg(name="json", help="print the record as JSON, and nothing else")]
Strict = Annotated[bool, arg(help="refuse a run with incomplete checkpoints or differing tensors")]
EngineName = Annotated[
    str, arg(name="engine", metavar="{local,ray}", help="where work runs: this process, or a Ray cluster")
]
RayAddress = Annotated[
    str | None, arg(metavar="HOST:PORT", help="of the cluster; default RAY_ADDRESS, one on this machine, or a new one")
]
Filter = Annotated[
    Literal["none", "paper"], arg(help="paper: only weights whose range exceeds 1e-4, with 4 or more values")
]
Clock = Annotated[Literal["step", "lr"], arg(help="what lines are drawn against: step, or summed learning rate")]
TaskName = Annotated[
    str, arg(metavar="TASK", help="sums, aime24, aime25, math-500, a .jsonl file, or a reasoning-gym data set")
]
Problems = Annotated[int | None, arg(help="how many; default all of a file or set, 100 of a task that makes its own")]
Verifier = Annotated[Literal["math", "exact"] | None, arg(help="of a .jsonl task; default math")]
Extract = Annotated[
    str | None, arg(help="which part of a response is the answer, of a .jsonl task: boxed, last-line, ...")
]
Temperature = Annotated[float, arg(help="0 is greedy")]
TopP = Annotated[float, arg(help="1 keeps all")]
TopK = Annotated[int, arg(help="0 keeps all")]
NewTokens = Annotated[int | None, arg(help="longest response; default the task's own")]
Early = Annotated[str | None, arg(metavar="MODEL", help="the early model; of a LoRA adapter the base, if left out")]
Prompts = Annotated[Path, arg(metavar="FILE", help="JSON lines with prompt (used as it is) or messages")]
SamplesOut = Annotated[Path, arg(metavar="FILE", help="JSON lines to write")]
BatchSize = Annotated[int, arg(help="completions decoded at once; changes the speed only")]
Rollouts = Annotated[
    Path, arg(metavar="FILE", help="JSON lines: prompt or messages with response, or prompt_ids and response_ids")
]
ModelDtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], arg(help="to run models in; auto: as saved")]
Rank = Annotated[int, arg(help="directions of relex")]
Analysis = Annotated[
    Path | None, arg(metavar="DIR", help="a result of driftline analyze of these steps: nothing is read twice")
]
ModelOut = Annotated[Path, arg(metavar="MODEL", help="folder to write; several targets go to MODEL/checkpoint-STEP")]
DemoOut = Annotated[Path, arg(metavar="DIR", help="the demo's folder; a second call continues from what is there")]


@app.command(name="inspect")
def inspect_(
    run: Run, steps: Steps = None, base: Base = None, strict: Strict = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """What is there: layout, steps, tensors, dtypes, sizes, problems."""
    from driftline import terminal
    from driftline.checkpoints.inspection import inspect
    from driftline.checkpoints.trajectory import open_trajectory

    record = inspect(open_trajectory(run, steps=steps, base=base, strict=strict))
    if json_:
        print(json.dumps(record, indent=2))
    else:
        terminal.inspection(record)


@app.command
def analyze(
    run: Run, out: Out, steps: Steps = None, base: Base = None,
    filter: Filter = "none",
    clock: Clock = "step",
    engine: EngineName = "local", ray_address: RayAddress = None,
    strict: Strict = False, overwrite: Overwrite = False, quiet: Quiet = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """How straight is the run, and does it mean anything: one pass over all weights."""
    from driftline import terminal
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.engines import open_engine
    from driftline.files.json import json_text
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.linearity.analysis import analyze as analyze_run
    from driftline.progress import progress_bar
    from driftline.report import analysis

    refuse_occupied(out, overwrite=overwrite, mark="summary.json")
    trajectory = open_trajectory(run, steps=steps, base=base, strict=strict)
    with open_engine(engine, ray_address) as where, output_folder(out, overwrite=overwrite) as folder:
        with progress_bar("reading weights", trajectory.nbytes, quiet=quiet) as advance:
            summary = analyze_run(trajectory, folder, filter=filter, clock=clock, engine=where, progress=advance)
        (folder / "summary.json").write_text(json_text(summary))
        analysis.write(folder, summary, _command())
    _print(terminal.analysis, summary, out, json_)


@app.command
def watch(
    run: Run, out: Annotated[Path, arg(metavar="DIR", help="folder to write; a second call continues it")],
    steps: Steps = None, base: Base = None,
    interval: Annotated[float, arg(help="seconds between looks at the run")] = 30.0,
    settle: Annotated[float, arg(help="seconds for which a checkpoint must not have changed")] = 10.0,
    once: Annotated[bool, arg(help="take what is there, then stop")] = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Follow a run being written: a line and a new summary with every checkpoint, and warnings; Ctrl-C stops."""
    from driftline import terminal
    from driftline.watching.watch import Watch
    from driftline.watching.watch import watch as follow

    request = Watch(run, steps=steps, base=base, interval=interval, settle=settle, once=once)
    summary = follow(request, out, show=terminal.watched(quiet=quiet), say=terminal.aside)
    if summary is not None:
        print(summary["verdict"]["sentence"])


@app.command
def backtest(
    run: Run, out: Out, steps: Steps = None, base: Base = None,
    clock: Clock = "step",
    rank: Rank = 1,
    analysis: Analysis = None,
    strict: Strict = False, overwrite: Overwrite = False, quiet: Quiet = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """How well each method would have forecast the run's own later checkpoints, and how far ahead to trust it."""
    from driftline import terminal
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.forecast.backtest import MARK, write
    from driftline.forecast.observations import observe
    from driftline.progress import progress_bar
    from driftline.report import backtest as page

    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = open_trajectory(run, steps=steps, base=base, strict=strict)
    with output_folder(out, overwrite=overwrite, mark=MARK) as folder:
        with progress_bar("reading weights", trajectory.nbytes, quiet=quiet) as advance:
            observed = observe(trajectory, clock=clock, analysis=analysis, progress=advance)
        note = trajectory.regrounded.sentence if trajectory.regrounded else ""
        record = write(folder, observed, run=trajectory.name, clock=clock, rank=rank, note=note)
        page.write(folder, record, _command())
    _print(terminal.backtest, record, out, json_)


@app.command
def extrapolate(
    run: Run, out: ModelOut,
    to: Annotated[str | None, arg(metavar="STEP", help="step to forecast, a list 1200,1400, or FIRST:LAST:STRIDE")] = None,
    method: Annotated[str, arg(help="auto, two-point, least-squares, anchored, damped, blup, relex, mean, ema, hold, alpharl")] = "auto",
    from_: Annotated[tuple[int, ...], arg(name="from", metavar="STEP...", help="observed steps to use; two-point: early and late")] = (),
    alpha: Annotated[float | None, arg(help="two-point: early + alpha (late - early), in place of --to; ExPO's is one less")] = None,
    steps: Steps = None, base: Base = None,
    keep: Annotated[tuple[str, ...], arg(metavar="PATTERN...", help="tensors copied from the last checkpoint; none for none")] = ("*norm*", "*ln_*"),
    dtype: Annotated[Literal["same", "float32", "bfloat16", "float16"], arg(help="of the model written")] = "same",
    rounding: Annotated[Literal["nearest", "stochastic"], arg(help="stochastic: bfloat16 up or down by chance")] = "nearest",
    seed: Annotated[int, arg(help="of stochastic rounding")] = 0,
    shard_size: Annotated[str, arg(metavar="SIZE", help="largest file, such as 5GB")] = "5GB",
    per: Annotated[Literal["tensor", "group", "run"] | None, arg(help="fit to each tensor, each layer and module, or the run")] = None,
    rank: Rank = 1,
    clock: Clock = "step",
    analysis: Analysis = None,
    rollouts: Annotated[Path | None, arg(metavar="FILE", help="auto: score forecasts by their log-probs of these responses")] = None,
    interpolate: Annotated[bool, arg(help="allow targets among the observed steps")] = False,
    reconstruct: Annotated[bool, arg(help="relex: the rank-r part of an observed step")] = False,
    scores: Annotated[Path | None, arg(metavar="FILE", help="alpharl: JSON object of step to score")] = None,
    target_score: Annotated[float | None, arg(help="alpharl: the score to reach")] = None,
    engine: EngineName = "local", ray_address: RayAddress = None,
    strict: Strict = False, overwrite: Overwrite = False, quiet: Quiet = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """Write the model that the run is heading for: one streaming pass, loadable by from_pretrained."""
    from functools import partial

    from driftline import terminal
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.engines import open_engine
    from driftline.forecast.request import ForecastRequest, parse_targets
    from driftline.outputs.extrapolate import extrapolate as write_forecasts
    from driftline.progress import progress_bar
    from driftline.writing.storage import Storage, parse_size

    request = ForecastRequest(
        targets=parse_targets(to) if to is not None else (),
        method=method, seen=from_, alpha=alpha, per=per, rank=rank, clock=clock, analysis=analysis,
        reconstruct=reconstruct, interpolate=interpolate, scores=scores, target_score=target_score,
        rollouts=rollouts,
    )  # fmt: skip
    storage = Storage(
        keep=() if keep == ("none",) else keep, dtype=dtype, rounding=rounding, seed=seed,
        shard_bytes=parse_size(shard_size),
    )  # fmt: skip
    trajectory = open_trajectory(run, steps=steps, base=base, strict=strict)
    with open_engine(engine, ray_address) as where:
        written = write_forecasts(
            trajectory, out, request, storage,
            overwrite=overwrite, engine=where, progress=partial(progress_bar, quiet=quiet),
        )  # fmt: skip
    _print(terminal.forecast, written, out, json_)


@app.command
def logprobs(
    run: Run, rollouts: Rollouts, out: Out, steps: Steps = None, base: Base = None,
    clock: Clock = "step",
    dtype: ModelDtype = "auto",
    engine: EngineName = "local", ray_address: RayAddress = None,
    strict: Strict = False, overwrite: Overwrite = False, quiet: Quiet = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """Teacher-forced log-probs of fixed responses at every checkpoint, and how straight they run."""
    import time

    from driftline import terminal
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.engines import open_engine
    from driftline.files.json import json_text
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.outputs import logprobs as measure
    from driftline.progress import counter
    from driftline.report import outputs

    refuse_occupied(out, overwrite=overwrite, mark="summary.json")
    trajectory = open_trajectory(run, steps=steps, base=base, strict=strict)
    started = time.monotonic()
    with (
        open_engine(engine, ray_address) as where,
        output_folder(out, overwrite=overwrite) as folder,
        counter(quiet=quiet) as progress,
    ):
        summary = measure.logprobs(
            trajectory, rollouts, folder, out, clock=clock, dtype=dtype, engine=where, progress=progress
        )
        summary["cost"] = {"seconds": time.monotonic() - started}
        (folder / "summary.json").write_text(json_text(summary))
        outputs.write_logprobs(folder, summary, _command())
    _print(terminal.analysis, summary, out, json_)


@app.command
def activations(
    run: Run, rollouts: Rollouts, out: Out, steps: Steps = None, base: Base = None,
    layers: Annotated[tuple[int, ...], arg(metavar="LAYER...", help="layers to look into; default four, spread evenly")] = (),
    positions: Annotated[int, arg(help="response positions to sample")] = 256,
    units: Annotated[int, arg(help="units of each block to sample")] = 64,
    seed: Annotated[int, arg(help="of both samples")] = 0,
    clock: Clock = "step",
    dtype: ModelDtype = "auto",
    strict: Strict = False, overwrite: Overwrite = False, quiet: Quiet = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """The same for hidden states, attention and MLP outputs; and where a layer's change comes from."""
    import time

    from driftline import terminal
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.files.json import json_text
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.outputs import activations as measure
    from driftline.progress import counter
    from driftline.report import outputs

    refuse_occupied(out, overwrite=overwrite, mark="summary.json")
    trajectory = open_trajectory(run, steps=steps, base=base, strict=strict)
    sampling = measure.Sampling(layers=layers, positions=positions, units=units, seed=seed)
    started = time.monotonic()
    with output_folder(out, overwrite=overwrite) as folder, counter(quiet=quiet) as progress:
        summary = measure.activations(
            trajectory, rollouts, folder, out, sampling=sampling, clock=clock, dtype=dtype, progress=progress
        )
        summary["cost"] = {"seconds": time.monotonic() - started}
        (folder / "summary.json").write_text(json_text(summary))
        outputs.write_activations(folder, summary, _command())
    _print(terminal.analysis, summary, out, json_)


@app.command
def generate(
    late: Annotated[str, arg(metavar="MODEL", help="folder or Hub name of the late model, or its LoRA adapter")],
    prompts: Prompts, out: SamplesOut,
    early: Early = None,
    alpha: Annotated[float | None, arg(help="early + alpha (late - early), in logits; left out: the late model alone")] = None,
    temperature: Annotated[float, arg(help="0 is greedy")] = 0.6,
    top_p: Annotated[float, arg(help="1 keeps all")] = 0.95,
    top_k: Annotated[int, arg(help="0 keeps all")] = 0,
    samples: Annotated[int, arg(help="completions of each prompt")] = 1,
    max_new_tokens: Annotated[int, arg(help="longest completion")] = 512,
    seed: Annotated[int, arg(help="of the sampling; each sample of each prompt has its own")] = 0,
    batch_size: BatchSize = 16,
    dtype: ModelDtype = "auto",
    overwrite: Annotated[bool, arg(help="begin the file again")] = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Samples from two checkpoints' extrapolated logits, or from one model; a second call continues the file."""
    from driftline.decoding.generate import Settings

    settings = Settings(
        late=late, early=early, alpha=alpha, temperature=temperature, top_p=top_p, top_k=top_k, samples=samples,
        max_new_tokens=max_new_tokens, seed=seed, dtype=dtype,
    )  # fmt: skip
    _sample(prompts, out, settings, batch_size=batch_size, overwrite=overwrite, quiet=quiet)


@app.command
def rollouts(
    model: Annotated[Positional[str], arg(metavar="MODEL", help="folder or Hub name of the model to sample, as a rule the base")],
    prompts: Prompts, out: SamplesOut,
    samples: Annotated[int, arg(help="responses to each prompt")] = 64,
    temperature: Annotated[float, arg(help="1 samples the model as it is")] = 1.0,
    max_new_tokens: Annotated[int, arg(help="longest response")] = 512,
    seed: Annotated[int, arg(help="of the sampling")] = 0,
    batch_size: BatchSize = 64,
    dtype: ModelDtype = "auto",
    overwrite: Annotated[bool, arg(help="begin the file again")] = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Fixed responses for logprobs and activations, with the token ids they were sampled as."""
    from driftline.decoding.generate import Settings

    settings = Settings(
        late=model, temperature=temperature, top_p=1.0, samples=samples, max_new_tokens=max_new_tokens, seed=seed,
        dtype=dtype, keep_prompt_ids=True,
    )  # fmt: skip
    _sample(prompts, out, settings, batch_size=batch_size, overwrite=overwrite, quiet=quiet)


def _sample(prompts: Path, out: Path, settings: Any, *, batch_size: int, overwrite: bool, quiet: bool) -> None:
    from driftline import terminal
    from driftline.decoding.generate import generate as generate_file
    from driftline.progress import progress_bar
    from driftline.prompts import read_rows

    total = len(read_rows(prompts)) * settings.samples
    with progress_bar("sampling", total, quiet=quiet, unit="rows") as advance:
        outcome = generate_file(prompts, out, settings, batch_size=batch_size, overwrite=overwrite, advance=advance)
    terminal.samples(outcome, out)


@app.command
def serve(
    late: Annotated[str, arg(metavar="MODEL", help="folder or Hub name of the late model, or its LoRA adapter")],
    early: Early = None,
    alpha: Annotated[
        float | None, arg(help="early + alpha (late - early), in logits; left out: the late model alone")
    ] = None,
    host: Annotated[str, arg(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, arg(help="0 takes a free one")] = 8000,
    name: Annotated[str, arg(help="what clients call the model")] = "driftline",
    key: Annotated[str | None, arg(help="what clients must send as their API key")] = None,
    dtype: ModelDtype = "auto",
) -> None:
    """An OpenAI-compatible endpoint that answers from extrapolated logits."""
    from driftline.decoding.serve import listen
    from driftline.decoding.serve import serve as serve_forever
    from driftline.decoding.sources import load_sampler

    listener = listen(host, port)
    sampler = load_sampler(late, early=early, alpha=alpha, dtype=dtype)
    address, taken = listener.getsockname()[:2]
    print(f"listening on http://{address}:{taken}/v1 as {name!r}; Ctrl-C stops", flush=True)
    serve_forever(sampler, listener, name, key=key)


@app.command
def evaluate(
    model: Annotated[Positional[str | None], arg(metavar="MODEL", help="folder or Hub name; left out with --early and --late")] = None,
    *,
    task: TaskName, out: Out,
    early: Early = None,
    late: Annotated[str | None, arg(metavar="MODEL", help="the late model of extrapolated decoding")] = None,
    alpha: Annotated[float | None, arg(help="early + alpha (late - early), in logits")] = None,
    problems: Problems = None,
    samples: Annotated[int, arg(help="of each problem")] = 8,
    verifier: Verifier = None, extract: Extract = None,
    temperature: Temperature = 0.6, top_p: TopP = 0.95, top_k: TopK = 0,
    max_new_tokens: NewTokens = None,
    seed: Annotated[int, arg(help="of the sampling, and of problems that are made")] = 0,
    no_control: Annotated[bool, arg(help="extrapolated decoding without the late model beside it")] = False,
    against: Annotated[Path | None, arg(metavar="DIR", help="an evaluation of the same problems to compare with, pair by pair")] = None,
    batch_size: BatchSize = 16,
    dtype: ModelDtype = "auto",
    overwrite: Overwrite = False, quiet: Quiet = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """Accuracy on a task: avg@k and pass@k with intervals; of extrapolated decoding beside its controls."""
    from driftline import terminal
    from driftline.decoding.generate import Settings
    from driftline.evaluation.evaluate import evaluate as evaluate_model
    from driftline.evaluation.tasks import open_task
    from driftline.progress import counter

    if (model is None) == (late is None):
        raise InputError("no model, or two ways of naming one: give either MODEL, or --early and --late with --alpha")
    chosen = open_task(task, problems=problems, seed=seed, verifier=verifier, extraction=extract)
    settings = Settings(
        late=model or str(late), early=early, alpha=alpha, temperature=temperature, top_p=top_p, top_k=top_k,
        samples=samples, max_new_tokens=max_new_tokens or chosen.max_new_tokens, seed=seed, dtype=dtype,
    )  # fmt: skip
    with counter(quiet=quiet) as progress:
        record = evaluate_model(
            chosen, out, settings, control=not no_control, against=against, batch_size=batch_size,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
    _print(terminal.evaluation, record, out, json_)


@app.command
def sweep(
    run: Run, to: Annotated[str, arg(metavar="STEPS", help="targets: FIRST:LAST:STRIDE, or a list 1200,1400")],
    task: TaskName, out: Out, steps: Steps = None, base: Base = None,
    output_space: Annotated[bool, arg(help="extrapolate logits of the first and last step used, not weights")] = False,
    method: Annotated[str, arg(help="of forecasts in weights, as in extrapolate")] = "two-point",
    from_: Annotated[tuple[int, ...], arg(name="from", metavar="STEP...", help="observed steps to use")] = (),
    observed: Annotated[int, arg(help="checkpoints of the run to score beside")] = 4,
    problems: Problems = None,
    samples: Annotated[int, arg(help="of each problem")] = 4,
    verifier: Verifier = None, extract: Extract = None,
    temperature: Temperature = 0.6, top_p: TopP = 0.95, top_k: TopK = 0,
    max_new_tokens: NewTokens = None,
    seed: Annotated[int, arg(help="of the sampling, and of problems that are made")] = 0,
    batch_size: BatchSize = 16,
    dtype: ModelDtype = "auto",
    engine: EngineName = "local", ray_address: RayAddress = None,
    strict: Strict = False, overwrite: Overwrite = False, quiet: Quiet = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """Which target scores best on a task: few problems for all, more for the best."""
    from driftline import terminal
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.decoding.generate import Settings
    from driftline.engines import open_engine
    from driftline.evaluation.sweep import MARK
    from driftline.evaluation.sweep import sweep as sweep_targets
    from driftline.evaluation.tasks import open_task
    from driftline.files.output import output_folder, refuse_occupied
    from driftline.forecast.request import ForecastRequest, parse_targets
    from driftline.progress import counter
    from driftline.report import sweep as page

    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    trajectory = open_trajectory(run, steps=steps, base=base, strict=strict)
    chosen = open_task(task, problems=problems, seed=seed, verifier=verifier, extraction=extract)
    settings = Settings(
        late="", temperature=temperature, top_p=top_p, top_k=top_k, samples=samples,
        max_new_tokens=max_new_tokens or chosen.max_new_tokens, seed=seed, dtype=dtype,
    )  # fmt: skip
    request = ForecastRequest(targets=parse_targets(to), method=method, seen=from_)
    with (
        open_engine(engine, ray_address) as where,
        output_folder(out, overwrite=overwrite, mark=MARK) as folder,
        counter(quiet=quiet) as progress,
    ):
        record = sweep_targets(
            trajectory, chosen, folder, out, request, settings, output_space=output_space, observed=observed,
            batch_size=batch_size, engine=where, progress=progress,
        )  # fmt: skip
        page.write(folder, record, _command())
    _print(terminal.sweep, record, out, json_)


@app.command
def reground(
    model: Annotated[Path, arg(metavar="MODEL", help="folder of the model to start from")],
    m: Annotated[int, arg(help="steps that the trainer makes in each cycle")],
    n: Annotated[int, arg(help="steps that are projected after them")],
    cycles: Annotated[int, arg(help="how often")],
    out: Annotated[Path, arg(metavar="DIR", help="folder to write; a second call goes on with what is not finished")],
    preset: Annotated[Literal["verl"] | None, arg(help="arguments that this trainer needs are added to the command")] = None,
    keep: Annotated[tuple[str, ...], arg(metavar="PATTERN...", help="tensors copied from the trained checkpoint; none for none")] = ("*norm*", "*ln_*"),
    dtype: Annotated[Literal["same", "float32", "bfloat16", "float16"], arg(help="of projected models")] = "same",
    overwrite: Overwrite = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train m steps, project n, and again, around any trainer: end with -- CMD, in which {model}, {steps}, {output} are filled."""
    from driftline.training.driver import Reground
    from driftline.training.driver import reground as run_cycles

    asked = Reground(
        model=model, m=m, n=n, cycles=cycles, command=tuple(_trainer), preset=preset,
        keep=() if keep == ("none",) else keep, dtype=dtype,
    )  # fmt: skip
    run_cycles(asked, out, overwrite=overwrite, say=(lambda sentence: None) if quiet else print)
    print(f"last model: {out / 'final'}\njumps: {out / 'jumps.json'}")


@app.command
def train(
    out: Out, settings: tyro.conf.OmitArgPrefixes[LabRun] = LabRun(),  # noqa: B008
    config: Annotated[Path | None, arg(metavar="FILE", help="TOML file of these settings; flags go before it")] = None,
    overwrite: Overwrite = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """The lab: a real run of a small model on this machine, with TRL; also under accelerate launch."""
    from driftline import terminal
    from driftline.lab.run import train as train_lab

    def say(sentence: str) -> None:
        if not quiet:
            print(sentence, file=sys.stderr, flush=True)

    on_step = terminal.training_step(settings.steps, quiet=quiet)
    rows = train_lab(out, settings, overwrite=overwrite, on_step=on_step, say=say)
    if rows:  # of the first process
        terminal.accuracy(rows)
        print(
            f"\nrun: {out}\nnext: driftline analyze {shlex.quote(str(out))} --out {shlex.quote(str(out) + '-analysis')}"
        )


@app.command
def compare(
    results: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR", help="results of analyze, logprobs or activations")],
    out: Out, overwrite: Overwrite = False, json_: Json = False,
) -> None:  # fmt: skip
    """Several analyses side by side, each beside its own chance."""
    from driftline import terminal
    from driftline.files.json import json_text
    from driftline.files.output import output_folder
    from driftline.linearity.comparison import MARK
    from driftline.linearity.comparison import compare as compare_results
    from driftline.report import comparison

    record = compare_results(results)
    with output_folder(out, overwrite=overwrite, mark=MARK) as folder:
        (folder / MARK).write_text(json_text(record))
        comparison.write(folder, record, _command())
    _print(terminal.comparison, record, out, json_)


@app.command
def study(
    name: Annotated[Positional[str], arg(metavar="NAME", help="robustness, rl-vs-sft, noise, output-change, weight-targets, output-targets, speedup, filter-bias or rank")],
    out: Annotated[Path, arg(metavar="DIR", help="folder to write; a second call goes on with what is not finished")],
    quick: Annotated[bool, arg(help="a smoke-sized version")] = False,
    runs: Annotated[tuple[str, ...], arg(metavar="RUN...", help="runs to measure, instead of training new ones")] = (),
    engine: EngineName = "local", ray_address: RayAddress = None,
    overwrite: Annotated[bool, arg(help="measure again; finished runs are kept")] = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """An experiment of the paper, at the size of this machine, or on more under accelerate launch or Ray."""
    from driftline.engines import open_engine
    from driftline.report import study as page
    from driftline.studies.study import run_study

    def say(sentence: str) -> None:
        if not quiet:
            print(sentence, file=sys.stderr, flush=True)

    with open_engine(engine, ray_address) as where:
        record = run_study(name, out, quick=quick, runs=runs, overwrite=overwrite, engine=where, say=say)
    if not record:
        return  # not the first process of several
    page.write(out, record, _command())
    print("\n".join(record["findings"]))
    print(f"\nreport: {out / 'report.html'}")


@app.command(name="demo")
def demo_(
    out: DemoOut = Path("driftline-demo"),
    quick: Annotated[bool, arg(help="a smoke-sized run of under 90 seconds")] = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """The main job on this machine: train, analyze, back-test, extrapolate, score."""
    from driftline.commands.demo import demo

    demo(out, quick=quick, quiet=quiet)


def _print(show: Callable[[Any, Path], None], record: Any, out: Path, as_json: bool) -> None:
    """A result as a table with a sentence, or its record for a program."""
    from driftline.files.json import json_text

    if as_json:
        print(json_text(getattr(record, "records", record)), end="")
    else:
        show(record, out)


def _command() -> str:
    return shlex.join(["driftline", *map(redacted, sys.argv[1:])])


def _spell_out_config() -> None:
    """Put the settings of `train --config FILE` before the flags given with it, which so have the last word."""
    words = sys.argv[1:]
    if words[0] != "train":
        return
    files = [after for word, after in itertools.pairwise(words) if word == "--config"]
    files += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    if files:
        found = read_config(Path(files[-1]))
        sys.argv[2:2] = [part for name, value in found.items() for part in (f"--{name.replace('_', '-')}", str(value))]


_FIRST = """driftline {version}: measure, judge and forecast RLVR training runs.

Start here:
  driftline demo                    a real small run, made and analysed here
  driftline inspect RUN             what a folder of checkpoints holds
  driftline analyze RUN --out DIR   how straight it is, and what that means
  driftline backtest RUN --out DIR  how far ahead it can be forecast
  driftline extrapolate RUN --to STEP --out MODEL    the forecast model

All commands: driftline --help; what one takes: driftline COMMAND --help
Completion in your shell: driftline --tyro-print-completion bash (or zsh)
"""


def _refuse_unknown(command: str) -> None:
    """Raise `InputError` for a word that is no command, and name the one it looks like."""
    commands = list(app._subcommands)  # there is no public list of them
    if command.startswith("-") or command in commands:
        return
    near = difflib.get_close_matches(command, commands, 1)
    meant = f"use {near[0]}, or see driftline --help" if near else f"choose {', '.join(commands)}"
    raise InputError(f"{command!r} is no command: {meant}")


def main() -> None:
    """Entry point: 0 done; 2 the input or the request is wrong, in one sentence; 1 a bug of ours."""
    if len(sys.argv) == 1:
        print(_FIRST.format(version=__version__), end="")
        return
    if sys.argv[1:] == ["--version"]:
        print(f"driftline {__version__}")
        return
    if "--" in sys.argv:
        end = sys.argv.index("--")
        _trainer[:] = sys.argv[end + 1 :]
        del sys.argv[end:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-written results are removed
    try:
        _refuse_unknown(sys.argv[1])
        _spell_out_config()
        app.cli(
            prog="driftline",
            description="Measure, judge and forecast RLVR training runs.",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except InputError as error:
        code = getattr(error, "exit_code", None)  # a trainer's command that failed: its last lines, and its own code
        print(redacted(f"driftline: {error if code else ' '.join(str(error).split())}"), file=sys.stderr)
        sys.exit(code or 2)
    except KeyboardInterrupt:
        print("driftline: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
