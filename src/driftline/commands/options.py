"""Options that several commands share: small frozen dataclasses that requests contain. A field's doc is its help."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, Suppress, arg

if TYPE_CHECKING:
    from driftline.checkpoints.trajectory import Trajectory
    from driftline.decoding.backends.backend import Backend
    from driftline.engines import Engine
    from driftline.evaluation.tasks import Task

Filter = Literal["none", "paper"]
Clock = Literal["step", "lr"]
ModelDtype = Literal["auto", "float32", "bfloat16", "float16"]
StoredDtype = Literal["same", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Which checkpoints."""

    run: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN")]
    """a folder of checkpoints, here or at an address such as hf://owner/name; several STEP=PATH, or both"""
    steps: str | None = None
    """steps to use: FIRST:LAST:STRIDE (ends included) or a list 0,100,500"""
    base: Annotated[str | None, arg(metavar="MODEL")] = None
    """a model folder to use as step 0"""


@dataclass(frozen=True, kw_only=True)
class Source(Run):
    """Which checkpoints, and what of those that cannot be used."""

    strict: bool = False
    """refuse a run with incomplete checkpoints or differing tensors"""
    opened: Suppress[object] = field(default=None, compare=False)  # a Trajectory that is open already, from Python

    def open(self, *, needed: int = 1, quiet: bool = False) -> Trajectory:
        """The trajectory; what is not used of the run is said, once, on standard error.

        Args:
            needed: checkpoints; where there are fewer, the sentence that refuses the run says what is not used.
            quiet: say nothing.

        Raises:
            InputError: there is none.
        """
        from driftline import terminal
        from driftline.checkpoints.trajectory import Trajectory, open_trajectory

        if isinstance(self.opened, Trajectory):
            return self.opened
        trajectory = open_trajectory(self.run, steps=self.steps, base=self.base, strict=self.strict)
        if not quiet and len(trajectory.steps) >= needed:
            terminal.unused(trajectory)
        return trajectory


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What makes updates resemble each other, where the run does not say."""

    beta1: float | None = None
    """the optimizer's momentum; default what the run's files say, else 0.9"""
    ema: float | None = None
    """decay per step of averaged weights that were saved in place of the trained"""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the result goes."""

    out: Annotated[Path, arg(metavar="DIR")]
    """folder to write; must be empty or absent"""
    overwrite: bool = False
    """replace what driftline wrote there before"""


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """What is said while it works."""

    quiet: bool = False
    """print results only, no progress"""


@dataclass(frozen=True, kw_only=True)
class Printing(Quiet):
    """What is printed."""

    json: bool = False
    """print the record as JSON, and nothing else"""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where work runs."""

    engine: Annotated[str, arg(metavar="{local,ray}")] = "local"
    """where work runs: this process, or a Ray cluster"""
    ray_address: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """of the cluster; default RAY_ADDRESS, one on this machine, or a new one"""

    def open(self) -> AbstractContextManager[Engine]:
        from driftline.engines import open_engine

        return open_engine(self.engine, self.ray_address)


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """Which problems, and how answers are judged."""

    task: Annotated[str, arg(metavar="TASK")]
    """sums, strategy, sums-of-two, aime24, aime25, math-500, a .jsonl file, or a reasoning-gym data set"""
    problems: int | None = None
    """how many; default all of a file or set, 100 of a task that makes its own"""
    verifier: Literal["math", "exact"] | None = None
    """of a .jsonl task; default math"""
    extract: str | None = None
    """which part of a response is the answer, of a .jsonl task: boxed, last-line, ..."""

    def open(self, seed: int) -> Task:
        from driftline.evaluation.tasks import open_task

        return open_task(self.task, problems=self.problems, seed=seed, verifier=self.verifier, extraction=self.extract)


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """How tokens are drawn."""

    temperature: float = 0.6
    """0 is greedy"""
    top_p: float = 0.95
    """1 keeps all"""
    top_k: int = 0
    """0 keeps all"""


@dataclass(frozen=True, kw_only=True)
class BackendChoice:
    """What runs the models."""

    backend: Literal["transformers", "vllm", "http"] = "transformers"
    """what runs the models: transformers in this process, vLLM's engine, or a server"""
    endpoint: Annotated[str | None, arg(metavar="URL")] = None
    """of http: an OpenAI-compatible server, such as http://localhost:8000/v1; its key is taken from OPENAI_API_KEY"""
    model_: Annotated[str | None, arg(name="model", metavar="NAME")] = None
    """of http: what the server calls the model; {step} stands for a checkpoint's step"""
    tokenizer: Annotated[str | None, arg(metavar="MODEL")] = None
    """of http: folder or Hub name of its tokenizer, to send token ids and not texts"""

    def chosen(self) -> Backend:
        """The same as the rooms take it.

        Raises:
            InputError: options that do not go together.
        """
        from driftline.decoding.backends.backend import Backend

        return Backend(self.backend, self.endpoint, self.model_, self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How models are run."""

    choice: BackendChoice = BackendChoice()
    batch_size: int | None = None
    """completions decoded at once, of http requests in flight; changes the speed only"""
    dtype: ModelDtype = "auto"
    """to run models in; auto: as saved"""
