"""What samples depend on besides their prompts: the models, how tokens are drawn, how many, and the seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from driftline.decoding.backends.backend import Backend
from driftline.decoding.distribution import SamplingParams
from driftline.errors import InputError
from driftline.files.remote import redacted

_MOST = 10_000_000  # completions of a request
_LONGEST = 1 << 24  # tokens of one


@dataclass(frozen=True)
class GenerationSettings:
    """Everything that the samples of a prompt depend on.

    Attributes:
        late: a model's folder or Hub name, or a LoRA adapter's folder.
        early, alpha: of early + alpha (late - early) in logits; both None: `late` alone.
        temperature, top_p, top_k: as in `SamplingParams`.
        samples: completions of each prompt.
        max_new_tokens: the longest completion.
        seed: of all samples; each has its own, made from it (`row_seed`).
        dtype: to run the models in; `auto`: as saved.
        backend: what runs the models.
        keep_prompt_ids: have the prompt's tokens in each row, for `driftline logprobs` to score without tokenising again.
    """

    late: str
    early: str | None = None
    alpha: float | None = None
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    samples: int = 1
    max_new_tokens: int = 512
    seed: int = 0
    dtype: str = "auto"
    keep_prompt_ids: bool = False
    backend: Backend = Backend()

    def __post_init__(self) -> None:
        SamplingParams(self.temperature, self.top_p, self.top_k)
        for name, most in (("samples", _MOST), ("max_new_tokens", _LONGEST)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                wanted = "at least 1" if value < 1 else f"at most {most:,}"
                raise InputError(f"--{name.replace('_', '-')} is {value:,}: it must be {wanted}")

    @property
    def sources(self) -> list[str]:
        """The models whose files the samples depend on: none where a server has them."""
        if self.backend.name == "http":
            return []
        return [source for source in (self.late, self.early) if source is not None]

    def record(self) -> dict[str, Any]:
        """All of it, for telling samples drawn by other settings: an embedded backend leaves no trace, nor a password."""
        found = asdict(self)
        if self.backend == Backend():
            del found["backend"]
        elif self.backend.endpoint is not None:
            found["backend"]["endpoint"] = redacted(self.backend.endpoint)
        return found


def must_be_few(prompts: int, samples: int) -> None:
    """Refuse more completions than a request can mean, before a list of them is made."""
    if prompts * samples > _MOST:
        raise InputError(
            f"{prompts:,} prompts by --samples {samples:,} are more than {_MOST:,} completions: give fewer samples, or prompts"
        )
