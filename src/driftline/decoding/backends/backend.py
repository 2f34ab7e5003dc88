"""Which backend runs the models, as the user names it."""

from __future__ import annotations

from dataclasses import dataclass

from driftline.errors import InputError
from driftline.files.remote import redacted

BACKENDS = ("transformers", "vllm", "http")


@dataclass(frozen=True)
class Backend:
    """What runs the models.

    Attributes:
        name: `transformers` (in this process), `vllm` (its engine, in a process of its own), or `http`.
        endpoint: of `http`: the address of an OpenAI-compatible server, such as `http://localhost:8000/v1`.
        model: of `http`: what that server calls the model; `{step}` stands for a checkpoint's step.
        tokenizer: of `http`: a model's folder or Hub name; with it prompts are sent as token ids, so that they are
            the ones every other backend reads. Without it texts and messages are sent as they are.
    """

    name: str = "transformers"
    endpoint: str | None = None
    model: str | None = None
    tokenizer: str | None = None

    def record(self) -> dict[str, str]:
        """What a result says of it: nothing of transformers in this process, and no password."""
        told = {} if self.name == "transformers" else {"backend": self.name}
        return told | ({} if self.endpoint is None else {"endpoint": redacted(self.endpoint)})

    def __post_init__(self) -> None:
        if self.name not in BACKENDS:
            raise InputError(f"--backend {self.name!r} is unknown: choose {', '.join(BACKENDS)}")
        given = {"--endpoint": self.endpoint, "--model": self.model, "--tokenizer": self.tokenizer}
        for flag, value in given.items():
            if value is not None and self.name != "http":
                raise InputError(f"{flag} belongs to --backend http: add that, or leave {flag} out")
            if value is None and self.name == "http" and flag != "--tokenizer":
                raise InputError(f"--backend http needs {flag}: give the server's address and what it calls the model")
