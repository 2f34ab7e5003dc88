"""Rows join and leave a batch between rounds, with settings of their own, and become what they would alone."""

from __future__ import annotations

import random

import pytest
from tiny_models import pair, prompts, tokenizer

from driftline.decoding.distribution import SamplingParams
from driftline.decoding.sampler import Completion, Sampler
from driftline.decoding.speculative import Acceptance, Arrivals, Batch, OpenCompletion

END = frozenset([1])
KINDS = ["sliding_attention", "full_attention"]
WINDOWED = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0, "layer_types": KINDS}


def rows(count: int, seed: int) -> list[OpenCompletion]:
    """Each of its own prompt, length, alpha and way of drawing."""
    draw = random.Random(seed)
    shapes = [SamplingParams(0.0), SamplingParams(1.0), SamplingParams(0.7, 0.9), SamplingParams(1.2, 1.0, 40)]
    return [
        OpenCompletion(prompt, k, draw.randint(1, 24), draw.choice(shapes), draw.choice([0.0, 0.5, 1.0, 1.5, 3.0]))
        for k, prompt in enumerate(prompts(count, seed=seed, longest=draw.choice([1, 30])))
    ]


def alone(early, late, row: OpenCompletion) -> Completion:
    params = row.params
    sampler = Sampler(late, tokenizer(), early=early, alpha=row.alpha)
    return sampler.sample(
        [row.prompt],
        max_new_tokens=row.limit,
        seeds=[row.seed],
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
    )[0]


@pytest.mark.parametrize("changes", [{}, WINDOWED])
@pytest.mark.parametrize("lone", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_and_go_are_those_decoded_alone(seed, lone, changes):
    early, late = pair(**changes)
    early = None if lone else early
    draw, batch = random.Random(seed), Batch(late, early, context=96)
    asked = rows(16, seed)
    arriving: list[Arrivals] = []
    outside, sent_out, cancelled = list(asked), 0, set()
    while outside or arriving or not batch.finished:
        if outside and draw.random() < 0.5:
            count = draw.randint(1, 4)
            arriving.append(batch.arrivals(outside[:count]))
            del outside[:count]
        for arrivals in list(arriving):
            arrivals.read(draw.randint(1, 12))
            if not arrivals.left or draw.random() < 0.2:
                batch.join(arrivals)
                arriving.remove(arrivals)
        for row, tokens, _ in batch.round(1 if lone else draw.randint(1, 6), Acceptance()):
            row.take(tokens, END, lambda ids: False)
        held = [row for row in batch.rows if row.finish_reason is None]
        if held and draw.random() < 0.2:  # one must wait again
            waiting = draw.choice(held)
            batch.leave([waiting])
            outside.append(waiting)
            sent_out += 1
        if held and draw.random() < 0.1:
            gone = draw.choice(held)
            if gone not in outside:
                gone.finish_reason = "cancelled"
                cancelled.add(gone)
    for row in asked:
        wanted = alone(early, late, row)
        if row in cancelled:
            assert row.ids == wanted.ids[: len(row.ids)]
        else:
            assert (row.ids, row.finish_reason) == (wanted.ids, wanted.finish_reason)
    assert sent_out
    assert len(cancelled) < len(asked)


def test_an_empty_batch_has_no_rounds_and_forgets_what_it_held():
    early, late = pair()
    batch = Batch(late, early, context=96)
    assert batch.round(4, Acceptance()) == []
    row = OpenCompletion([5, 6, 7], 0, 5)
    batch.join(batch.arrivals([row]))
    row.finish_reason = "cancelled"
    assert batch.round(4, Acceptance()) == []
    assert batch.rows == []
    assert not batch.late.cache.layers


def test_numbers_belong_to_a_place_however_they_are_asked_for():
    whole = OpenCompletion([1], 7, 300).numbers(300)
    row, draw = OpenCompletion([1], 7, 300), random.Random(0)
    while len(row.ids) < 290:
        count = draw.randint(1, 10)
        assert (row.numbers(10) == whole[len(row.ids) : len(row.ids) + 10]).all()
        row.ids += [0] * count
        assert len(row._numbers) <= 64 + 64
