"""Mutated folders of models and adapters, for everything that loads and runs one: no crash, no hang, bounded memory.

    python tests/fuzz/folders.py --cases 10000 --seed 0

A case is a model's folder, or an adapter's on a whole model, of which one file is damaged at random: as in `readers.py`,
or a value of its JSON replaced by another, a huge one, one of another kind or a part of another file. It is then loaded,
encodes a text and a chat, draws some tokens and scores them. Each runs in a process of its own, since libraries in C++
and Rust may end it. The only exception allowed is InputError, with a message of one sentence.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

import numpy as np
import peft
import transformers
from readers import LARGEST, Figures, mutate, tell
from tiny_models import TEMPLATE, pair, save
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from driftline import prompts
from driftline.decoding.sources import load_sampler
from driftline.errors import InputError
from driftline.outputs.rollouts import Rollout
from driftline.outputs.teacher_forcing import token_logprobs

LONGEST = 10.0  # seconds of computing of a case: some bounds of work apart may be reached one after another
HANGING = 60  # seconds by the clock
_SPARE = 2 << 30  # bytes of addresses, most of which libraries only reserve
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 10**5, 10**6, 2**31, 2**32, 2**63, 10**30, -(10**30), 1.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "x" * 5000, "\0", "é" * 50, "(a+)+$", "(([a-z_.0-9]+)*)*!", "[", "w1"),
    *("<eos>", "../x", [], {}, [1], ["x"], [[]], {"a": 1}, [None] * 3),
]
_ROWS: list[dict[str, Any]] = [
    {"prompt": "w3 hello 12 w5"},
    {"messages": [{"role": "user", "content": "w4 test é"}]},
]


def byte_level() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer as those of trained models are made."""
    built = Tokenizer(BPE(byte_fallback=True))
    built.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("~", " ")])
    split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\p{N}]+"), "isolated")
    built.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    built.decoder = decoders.Sequence([decoders.ByteLevel()])
    special = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(["hello world this is 12345 test " * 20], trainer)
    built.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=built, pad_token="<pad>", eos_token="<eos>")
    made.chat_template = TEMPLATE
    return made


def make_seeds(base: Path) -> dict[str, Path]:
    """Whole folders, by what they are."""
    late = pair()[1]
    words, bytes_ = save(base / "words", late), save(base / "bytes", late, byte_level())
    late.name_or_path = str(words)
    adapted = peft.get_peft_model(late, peft.LoraConfig(r=2, target_modules=["q_proj"], rank_pattern={"k_proj": 3}))
    adapted.save_pretrained(str(base / "adapter"))
    return {"words": words, "bytes": bytes_, "adapter": base / "adapter"}


def _paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value is; of long lists and objects the first and the last."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if len(keys) <= 60 else [*keys[:10], *keys[-10:]]:
        yield (*at, key)
        yield from _paths(value[key], (*at, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _changed(value: Any, other: Any, rng: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not (paths := list(_paths(value))):
            break
        *place, key = rng.choice(paths)
        holder, kind = _at(value, tuple(place)), rng.random()
        if kind < 0.65:
            holder[key] = rng.choice(_VALUES)
        elif kind < 0.75 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(_at(other, rng.choice([*_paths(other), ()])))
    return value


def write_case(folder: Path, seeds: dict[str, Path], rng: random.Random) -> str:
    """A folder with one damaged file, which is named."""
    kind = rng.choice(sorted(seeds))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds[kind], folder)
    name = rng.choice(
        sorted(file.name for file in folder.iterdir() if file.suffix in (".json", ".jinja", ".safetensors"))
    )
    data = (folder / name).read_bytes()
    if name.endswith(".json") and rng.random() < 0.8:
        other = rng.choice(sorted(seeds["bytes"].glob("*.json")))
        data = json.dumps(_changed(json.loads(data), json.loads(other.read_bytes()), rng)).encode()
    else:
        data = mutate(data, rng, framed=name.endswith(".safetensors"))
    (folder / name).write_bytes(data)
    return f"{kind}/{name}"


def use(folder: Path) -> None:
    """As `generate` and `logprobs` do."""
    sampler = load_sampler(folder)
    for row in _ROWS:
        ids = prompts.encode(row, sampler.tokenizer, "row 0", context=sampler.context).ids
        for found in sampler.sample([ids], max_new_tokens=3, seeds=[1], stop=["zz"]):
            sampler.text(found)
            if not hasattr(sampler.late, "adapter") and found.ids:
                token_logprobs(sampler.late, [Rollout(tuple(ids), tuple(found.ids))])


def outcome_of(folder: Path, said: Path) -> tuple[str, float, float]:
    """What became of a case in a process of its own, its seconds of computing, and MiB beyond what it began with."""
    if not (child := os.fork()):
        code = 70
        try:
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1, errors="replace")
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + _SPARE, held + _SPARE))
            signal.alarm(HANGING)
            try:
                use(folder)
                code = 0
            except InputError as error:
                print(error)
                code = 2
            except BaseException:
                traceback.print_exc()
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    outcome = {0: "read", 2: "refused"}.get(os.waitstatus_to_exitcode(status), "crash")
    return outcome, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def fuzz(cases: int, *, seed: int, first: int = 0, keep: Path | None = None) -> Figures:
    """Run the cases; failures are described in `failures`, their folders copied to `keep`."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # a thread of everything: others are not in forked children
    figures = Figures()
    with tempfile.TemporaryDirectory() as base:
        seeds = make_seeds(Path(base, "seeds"))
        for folder in seeds.values():  # what is imported late is imported here
            use(folder)
        before = np.max([outcome_of(folder, Path(base, "said"))[2] for folder in seeds.values()])
        for number in range(first, first + cases):
            folder, said = Path(base, "case"), Path(base, "said")
            name = write_case(folder, seeds, random.Random(f"{seed}/{number}"))
            outcome, seconds, mebibytes = outcome_of(folder, said)
            text = said.read_text(errors="replace")
            failure = text[-300:].replace("\n", " | ") or "ended without a word" if outcome == "crash" else None
            if outcome == "refused" and not (10 <= len(text) < 2000 and text.count("\n") == 1):
                failure = f"says {text[:300]!r}"
            if outcome == "read" and text:
                failure = f"prints {text[:300]!r}"
            if "Traceback" in text or "panicked" in text or "allocate memory" in text:
                failure = failure or f"shows {text[-300:]!r}"
            if seconds > LONGEST:
                failure = failure or f"{seconds:.1f} s"
            if mebibytes - before > LARGEST:
                failure = failure or f"{mebibytes - before:.0f} MiB"
            figures.slowest = max(figures.slowest, seconds)
            figures.mebibytes = max(figures.mebibytes, mebibytes)
            figures.outcomes[outcome] += 1
            figures.cases += 1
            if failure:
                figures.failures.append(f"case {number} ({name}): {failure}")
                if keep is not None:
                    shutil.copytree(folder, keep / str(number), dirs_exist_ok=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    settings = parser.parse_args()
    started = time.monotonic()
    figures = fuzz(settings.cases, seed=settings.seed, first=settings.first, keep=settings.keep)
    tell(figures, started)


if __name__ == "__main__":
    main()
