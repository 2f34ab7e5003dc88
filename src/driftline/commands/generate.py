"""`driftline generate`: samples from extrapolated logits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from driftline.commands.options import Decoding, Quiet, TokenChoice
from driftline.errors import InputError

if TYPE_CHECKING:
    from driftline.decoding.backends.backend import Backend
    from driftline.decoding.generate import GenerateReport
    from driftline.decoding.settings import GenerationSettings

Prompts = Annotated[Path, arg(metavar="FILE")]
SamplesFile = Annotated[Path, arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Samples from two checkpoints' extrapolated logits, or from one model; a second call continues the file."""

    late: Annotated[str | None, arg(metavar="MODEL")] = None
    """folder or Hub name of the late model, or its LoRA adapter; left out with --backend http"""
    prompts: Prompts
    """JSON lines with prompt (used as it is) or messages"""
    out: SamplesFile
    """JSON lines to write"""
    early: Annotated[str | None, arg(metavar="MODEL")] = None
    """the early model; of a LoRA adapter the base, if left out"""
    alpha: float | None = None
    """early + alpha (late - early), in logits; left out: the late model alone"""
    tokens: TokenChoice = TokenChoice()
    samples: int = 1
    """completions of each prompt"""
    max_new_tokens: int = 512
    """longest completion"""
    seed: int = 0
    """of the sampling; each sample of each prompt has its own"""
    decoding: Decoding = Decoding()
    overwrite: bool = False
    """begin the file again"""
    printing: Quiet = Quiet()


def run(request: Generate) -> GenerateReport:
    """Write the samples that are missing from the file."""
    from driftline.decoding.settings import GenerationSettings

    backend = request.decoding.choice.chosen()
    settings = GenerationSettings(
        late=model_of(backend, late=request.late, **({"early": request.early} if backend.name == "http" else {})),
        early=request.early,
        alpha=request.alpha,
        **asdict(request.tokens),
        samples=request.samples,
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        dtype=request.decoding.dtype,
        backend=backend,
    )
    return sample(
        request.prompts,
        request.out,
        settings,
        batch_size=request.decoding.batch_size,
        overwrite=request.overwrite,
        quiet=request.printing.quiet,
    )


def show(report: GenerateReport, request: Generate) -> None:
    from driftline import terminal

    terminal.samples(report, request.out)


def model_of(backend: Backend, **given: str | None) -> str:
    """The one model that is sampled: the first of those given, or what a server calls its own.

    Raises:
        InputError: there is none, or a server has its own and others are given.
    """
    flags = {name: "MODEL" if name == "model" else f"--{name}" for name in given}
    named = [name for name, value in given.items() if value is not None]
    if backend.name == "http":
        if named:
            flag = flags[named[0]]
            raise InputError(
                f"{flag} is a model to run here, and --backend http has its own: name that with --model, leave {flag} out"
            )
        return str(backend.model)
    if not named:
        raise InputError(f"no model: give {next(iter(flags.values()))}, or --backend http with --endpoint and --model")
    return str(given[named[0]])


def sample(
    prompts: Path, out: Path, settings: GenerationSettings, *, batch_size: int | None, overwrite: bool, quiet: bool
) -> GenerateReport:
    """Sample with a bar that counts the rows; see `decoding.generate`."""
    from driftline.decoding.generate import generate
    from driftline.progress import progress_bar
    from driftline.prompts import read_rows

    rows = read_rows(prompts)
    with progress_bar("sampling", len(rows) * settings.samples, quiet=quiet, unit="rows") as advance:
        return generate(prompts, out, settings, batch_size=batch_size, overwrite=overwrite, advance=advance, read=rows)
