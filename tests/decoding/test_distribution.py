"""The extrapolated logits and the distribution that is drawn from, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import distribution
from transformers import TopPLogitsWarper

from driftline.decoding.distribution import SamplingParams, combine_logits, draw, probabilities
from driftline.errors import InputError

LOGITS = 4 * torch.randn(6, 500, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_models_are_exact_at_their_own_alpha(dtype):
    early, late = LOGITS[:3].to(dtype), LOGITS[3:].to(dtype)
    assert torch.equal(combine_logits(early, late, 1.0), late.float())
    assert torch.equal(combine_logits(early, late, 0.0), early.float())
    torch.testing.assert_close(combine_logits(early, late, 1.5), 1.5 * late.float() - 0.5 * early.float())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_a_token_that_the_late_model_bans_stays_banned(alpha):
    late = LOGITS[3:].clone()
    late[:, 7] = -math.inf
    combined = combine_logits(LOGITS[:3], late, alpha)
    assert (combined[:, 7] == -math.inf).all()
    assert combined.isfinite().sum() == combined.numel() - 3


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1, 1, 0), (0.6, 0.95, 0), (1.3, 1, 40), (0.7, 0.8, 20), (1, 0.01, 0)]
)
def test_probabilities_are_those_of_the_formula(temperature, top_p, top_k):
    found = probabilities(LOGITS.view(2, 3, 500), SamplingParams(temperature, top_p, top_k))
    wanted = distribution(LOGITS.double(), temperature, top_p, top_k).float().view(2, 3, 500)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    assert torch.equal(found > 0, wanted > 0)


@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.95, 0.999])
def test_top_p_is_that_of_transformers_for_small_and_large_nuclei(spread, top_p):
    logits = spread * torch.randn(40, 3000, generator=torch.Generator().manual_seed(5))
    found = probabilities(logits, SamplingParams(top_p=top_p))
    wanted = TopPLogitsWarper(top_p)(None, logits).softmax(-1)
    assert torch.equal(found > 0, wanted > 0)
    torch.testing.assert_close(found, wanted)


def test_temperature_zero_is_all_on_the_likeliest():
    found = probabilities(LOGITS, SamplingParams(temperature=0))
    assert torch.equal(found.argmax(-1), LOGITS.argmax(-1))
    assert torch.equal(found.sum(-1), torch.ones(6))
    assert torch.equal(found.max(-1).values, torch.ones(6))


def test_drawing_inverts_the_cumulative_sum():
    weights = torch.tensor([0.0, 2.0, 0.0, 1.0, 1.0, 0.0])
    uniform = torch.tensor([0.0, 0.25, 0.499, 0.5, 0.749, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert draw(weights.expand(7, -1), uniform).tolist() == [1, 1, 1, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"temperature": -1}, "--temperature"),
        ({"temperature": math.nan}, "--temperature"),
        ({"top_p": 0}, "--top-p"),
        ({"top_p": 1.1}, "--top-p"),
        ({"top_k": -1}, "--top-k"),
    ],
)
def test_settings_out_of_range_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        SamplingParams(**changes)
