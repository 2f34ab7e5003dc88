"""`driftline rollouts`: fixed responses, to be scored by every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from driftline.commands.generate import Prompts, SamplesFile, model_of, sample
from driftline.commands.options import Decoding, Quiet

if TYPE_CHECKING:
    from driftline.decoding.generate import GenerateReport

_TOGETHER = 64  # completions, by default as many as each prompt has


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Fixed responses for logprobs and activations, with the token ids they were sampled as."""

    model: Annotated[Positional[str | None], arg(metavar="MODEL")] = None
    """folder or Hub name of the model to sample, as a rule the base; left out with --backend http"""
    prompts: Prompts
    """JSON lines with prompt (used as it is) or messages"""
    out: SamplesFile
    """JSON lines to write"""
    samples: int = 64
    """responses to each prompt"""
    temperature: float = 1.0
    """1 samples the model as it is"""
    max_new_tokens: int = 512
    """longest response"""
    seed: int = 0
    """of the sampling"""
    decoding: Decoding = Decoding()
    overwrite: bool = False
    """begin the file again"""
    printing: Quiet = Quiet()


def run(request: Rollouts) -> GenerateReport:
    """Write the responses that are missing from the file."""
    from driftline.decoding.settings import GenerationSettings

    backend = request.decoding.choice.chosen()
    settings = GenerationSettings(
        late=model_of(backend, model=request.model),
        temperature=request.temperature,
        top_p=1.0,
        samples=request.samples,
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        dtype=request.decoding.dtype,
        backend=backend,
        keep_prompt_ids=True,
    )
    return sample(
        request.prompts,
        request.out,
        settings,
        batch_size=request.decoding.batch_size or (_TOGETHER if backend.name == "transformers" else None),
        overwrite=request.overwrite,
        quiet=request.printing.quiet,
    )


def show(report: GenerateReport, request: Rollouts) -> None:
    from driftline import terminal

    terminal.samples(report, request.out)
