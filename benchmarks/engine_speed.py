"""How fast are vLLM's engine and driftline's own loop? What `engines.py` measures; see there."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftline.decoding.backends.vllm_engine import Weights, close_engines, engine_of
from driftline.decoding.backends.vllm_settings import sampling_arguments, scoring_arguments
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.sources import load_sampler
from driftline.models import default_device, load_model, quiet_libraries
from driftline.outputs.rollouts import Rollout
from driftline.outputs.teacher_forcing import token_logprobs
from generate_speed import ALPHA, DIVERGENCES, base, neighbour
from measure import timed
from tables import Table

BATCHES, PROMPT, NEW, ROUNDS = (1, 16, 64), 64, 64, 2
OURS, THEIRS, ONE, TWO = "driftline", "vLLM", "late alone", "two models"
_SAMPLED = GenerationSettings(late="", temperature=0.6, top_p=0.95)
SPEED = (
    {"key": "what", "title": ""},
    {"key": "rate", "title": "tokens a second", "digits": 3},
    {"key": "over_late", "title": "time / late alone, same engine", "decimals": 2},
    {"key": "over_ours", "title": "speed / driftline's two models", "decimals": 2},
)
SCORING = (
    {"key": "what", "title": ""},
    {"key": "rate", "title": "tokens a second", "digits": 3},
    {"key": "over_ours", "title": "speed / driftline's", "decimals": 2},
    {"key": "apart", "title": "largest difference, nats", "digits": 2},
)


def prompts_of(count: int, size: int) -> list[list[int]]:
    draw = random.Random(count)
    return [[draw.randrange(size) for _ in range(PROMPT)] for _ in range(count)]


def ours(early: Path | None, late: Path, batches: Sequence[int], new: int) -> dict[int, float]:
    """Seconds of each batch by driftline's own loop."""
    alpha = None if early is None else ALPHA
    sampler = load_sampler(late, early=early, alpha=alpha)
    sampler.end_ids = frozenset()

    def draw(count: int, tokens: int) -> None:
        prompts = prompts_of(count, size_of(sampler))
        sampler.sample(prompts, max_new_tokens=tokens, seeds=range(count), temperature=0.6, top_p=0.95)

    draw(1, 4)
    return {count: timed(lambda count=count: draw(count, new)) for count in batches}  # type: ignore[misc]


def theirs(early: Path | None, late: Path, batches: Sequence[int], new: int) -> dict[int, float]:
    """The same by vLLM's engine, once it has started."""
    engine = engine_of(Weights(late, early))
    alpha = None if early is None else ALPHA
    size = vocabulary_of(late)

    def draw(count: int, tokens: int) -> None:
        asked = (
            (prompt, sampling_arguments(_SAMPLED, seed=seed, length=tokens, ends=(), alpha=alpha))
            for seed, prompt in enumerate(prompts_of(count, size))
        )
        found = [len(one.outputs[0].token_ids) for some in engine.run(list(asked)) for one in some]
        assert found == [tokens] * count

    draw(1, 4)
    found = {}
    for count in batches:
        engine._llm.reset_prefix_cache()  # as if these prompts had not been seen
        found[count] = timed(lambda count=count: draw(count, new))  # type: ignore[misc]
    close_engines()
    return found


def size_of(sampler: Sampler) -> int:
    return sampler.late.config.get_text_config().vocab_size


def vocabulary_of(folder: Path) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).get_text_config().vocab_size


def speeds(
    early: Path, late: Path, *, batches: Sequence[int] = BATCHES, new: int = NEW, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """A row for each batch and way."""
    ways = {
        (OURS, ONE): lambda: ours(None, late, batches, new),
        (OURS, TWO): lambda: ours(early, late, batches, new),
        (THEIRS, ONE): lambda: theirs(None, late, batches, new),
        (THEIRS, TWO): lambda: theirs(early, late, batches, new),
    }
    turns = [{way: work() for way, work in ways.items()} for _ in range(rounds)]
    rows: list[dict[str, Any]] = []
    for count in batches:
        best = {way: min(turn[way][count] for turn in turns) for way in ways}
        for engine, models in ways:
            seconds, begun = best[engine, models], "" if (engine, models) != (OURS, ONE) else f"batch {count}: "
            rows.append(
                {
                    "what": f"{begun}{engine}, {models}",
                    "rate": count * new / seconds,
                    "over_late": seconds / best[engine, ONE] if models == TWO else None,
                    "over_ours": best[OURS, TWO] / seconds if models == TWO else None,
                }
            )
    return rows


def scoring(late: Path, *, count: int = 64, length: int = 128, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Log-probs of responses of random tokens by both, read at once."""
    size = vocabulary_of(late)
    draw = random.Random(0)
    rollouts = [
        Rollout(tuple(prompt), tuple(draw.randrange(size) for _ in range(length))) for prompt in prompts_of(count, size)
    ]
    tokens = sum(rollout.length for rollout in rollouts)
    taken: dict[str, list[float]] = {OURS: [], THEIRS: []}
    values: dict[str, list[float]] = {}
    for _ in range(rounds):
        model = load_model(late)

        def read(model: Any = model) -> None:
            values[OURS] = token_logprobs(model, rollouts).tolist()

        taken[OURS].append(timed(read))
        engine = engine_of(Weights(late, scoring=True))
        requests = [((*r.prompt_ids, *r.response_ids[:-1]), scoring_arguments(r.response_ids[-1])) for r in rollouts]

        def ask(engine: Any = engine, requests: Any = requests) -> None:
            outputs = [one for some in engine.run(requests) for one in some]
            values[THEIRS] = [
                at[token].logprob
                for one, rollout in zip(outputs, rollouts, strict=True)
                for at, token in zip(
                    [*one.prompt_logprobs[len(rollout.prompt_ids) :], one.outputs[0].logprobs[0]],
                    rollout.response_ids,
                    strict=True,
                )
            ]

        taken[THEIRS].append(timed(ask))
        close_engines()
    apart = max(abs(a - b) for a, b in zip(values[OURS], values[THEIRS], strict=True))
    best = {way: min(seconds) for way, seconds in taken.items()}
    return [
        {"what": OURS, "rate": tokens / best[OURS], "over_ours": None, "apart": None},
        {"what": THEIRS, "rate": tokens / best[THEIRS], "over_ours": best[OURS] / best[THEIRS], "apart": apart},
    ]


@contextmanager
def pair_of(early: str | None, late: str | None) -> Iterator[tuple[Path, Path]]:
    """The folders of the models that are asked for, or of two that are made."""
    if early and late:
        yield Path(early), Path(late)
        return
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as name:
        first = base()
        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(first.config.vocab_size)}))
        folders = Path(name) / "early", Path(name) / "late"
        for folder, model in zip(folders, (first, neighbour(first, DIVERGENCES[0])), strict=True):
            model.save_pretrained(folder)
            PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
        yield folders


def arguments(doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--early", metavar="MODEL", help="folder of the early model")
    parser.add_argument("--late", metavar="MODEL", help="folder of the late model")
    parser.add_argument("--new", type=int, default=NEW, metavar="TOKENS", help="of each completion")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each way, by turns")
    parser.add_argument("--keep", action="store_true", help="write the record that RESULTS.md is rendered from")
    asked = parser.parse_args()
    if bool(asked.early) != bool(asked.late):
        parser.error("give both --early and --late, or neither")
    return asked


def main(doc: str | None) -> None:
    asked = arguments(doc)
    default_device()
    quiet_libraries()
    with pair_of(asked.early, asked.late) as (early, late):
        rows = speeds(early, late, new=asked.new, rounds=asked.rounds)
        scored = scoring(late, rounds=asked.rounds)
    Table("python benchmarks/engines.py", SPEED, rows).show("engines", keep=asked.keep)
    Table("python benchmarks/engines.py", SCORING, scored).show("engines-logprobs", keep=asked.keep)
