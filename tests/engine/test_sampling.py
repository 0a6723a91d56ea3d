"""The sampler against the softmax, Hugging Face's warpers, and itself in other batches."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import chisquare, kstest
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from steerproof.engine.sampling import row_seed, sample
from steerproof.errors import ModelError
from tests.engine.definition import drawn_by_definition, gumbel, in_nucleus


def warped(logits, temperature, top_p):
    """Hugging Face's distribution of the next token."""
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    return TopPLogitsWarper(top_p)(None, scores).softmax(dim=-1)


def draws(logits, count, temperature, top_p):
    """Tokens of `count` rows that see the same logits."""
    seeds = torch.tensor([row_seed(3, "cell", 0, s) for s in range(count)])
    steps = torch.full((count,), 5)
    return sample(logits.expand(count, -1), seeds, steps, temperature, top_p)


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 0.95), (0.7, 0.9), (1.5, 0.5), (1.0, 1.0)]
)
def test_token_frequencies_follow_the_warped_softmax(temperature, top_p):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(1)) * 1.5
    expected = warped(logits[None], temperature, top_p)[0].double()
    seen = torch.bincount(draws(logits, 40_000, temperature, top_p), minlength=40)
    inside = expected > 0
    assert int(seen[~inside].sum()) == 0
    expected = (expected[inside] / expected[inside].sum()).numpy()
    assert chisquare(seen[inside].numpy(), 40_000 * expected).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.1, 1.0, 3.0, 8.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.95, 0.999]),
)
def test_the_nucleus_is_hugging_faces_where_there_are_no_ties(seed, spread, temperature, top_p):
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * spread
    theirs = warped(logits, temperature, top_p) > 0
    probabilities = (logits / temperature).softmax(dim=1)
    ours = torch.stack([in_nucleus(probabilities, p, top_p) for p in probabilities.T], dim=1)
    # A token whose place is decided by rounding of the sums is no disagreement.
    above = torch.stack(
        [(probabilities.double() * (probabilities > p[:, None])).sum(1) for p in probabilities.T],
        dim=1,
    )
    unclear = (above - top_p).abs() < 1e-6
    assert torch.equal(ours | unclear, theirs | unclear)


def test_the_draw_is_the_gumbel_argmax_over_the_nucleus_that_sorting_gives():
    logits = torch.randn(300, 200, generator=torch.Generator().manual_seed(4)) * 2
    seeds = torch.arange(300) * 7919
    steps = torch.arange(300) % 11
    row, token = torch.ones(300, 200).nonzero(as_tuple=True)
    noise = gumbel(seeds, steps, row, token).view(300, 200)
    for top_p in (0.3, 0.9, 1.0):
        reference = (warped(logits, 1.3, top_p).double().log() + noise).argmax(dim=1)
        assert torch.equal(sample(logits, seeds, steps, 1.3, top_p), reference)


@pytest.mark.parametrize("spread", [0.5, 3.0, 10.0])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.95), (0.7, 0.5), (1.3, 1.0)])
def test_the_draw_is_the_one_that_is_defined(spread, temperature, top_p):
    logits = torch.randn(500, 1000, generator=torch.Generator().manual_seed(6)) * spread
    seeds = torch.tensor([row_seed(1, "cell", q, 0) for q in range(500)])
    steps = torch.arange(500) % 70
    expected = drawn_by_definition(logits / temperature, seeds, steps, top_p)
    assert torch.equal(sample(logits, seeds, steps, temperature, top_p), expected)
    assert torch.equal(sample(logits.double(), seeds, steps, temperature, top_p), expected)


def test_a_row_draws_the_same_token_in_any_batch():
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(2)) * 3
    seeds = torch.tensor([row_seed(0, "A.villain", q, 1) for q in range(64)])
    steps = torch.arange(64)
    together = sample(logits, seeds, steps, 1.0, 0.95)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(8))
    assert torch.equal(
        sample(logits[order], seeds[order], steps[order], 1.0, 0.95), together[order]
    )
    alone = [
        sample(logits[i : i + 1], seeds[i : i + 1], steps[i : i + 1], 1.0, 0.95) for i in range(64)
    ]
    assert torch.equal(torch.cat(alone), together)


def test_rows_that_share_their_logits_draw_as_if_each_had_its_own():
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(2)) * 3
    seeds, owners = torch.arange(37), torch.tensor([0] * 10 + [1] + [3] * 20 + [4] * 6)
    steps = owners * 2
    own = sample(logits[owners], seeds, steps, 0.8, 0.9)
    assert torch.equal(sample(logits, seeds, steps, 0.8, 0.9, owners), own)
    assert len(own[11:31].unique()) > 1


def test_tokens_tied_at_the_boundary_are_all_kept():
    tied = torch.tensor([[0.0, -1.0, -1.0, -1.0, -20.0]])
    seen = set(draws(tied[0], 4000, 1.0, 0.6).tolist())
    assert seen == {0, 1, 2, 3}


def test_a_nucleus_smaller_than_the_first_token_keeps_the_first_token():
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    assert set(draws(logits[0], 500, 1.0, 1e-6).tolist()) == {int(logits.argmax())}


def test_noise_is_gumbel_along_tokens_steps_and_seeds():
    n = 20_000
    zero, index = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    along = {
        "tokens": gumbel(torch.tensor([9]), torch.tensor([0]), zero, index),
        "steps": gumbel(torch.full((n,), 9), index, index, zero),
        "seeds": gumbel(index, zero, index, zero),
    }
    for name, noise in along.items():
        assert kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3, name
        centred = noise - noise.mean()
        lag = float((centred[1:] * centred[:-1]).mean() / centred.var())
        assert abs(lag) < 4 / n**0.5, name


def test_noise_is_finite_at_the_ends_of_the_integers():
    ends = torch.tensor([0, 1, 2**63 - 1])
    row = torch.arange(3)
    noise = gumbel(ends, torch.tensor([0, 2**31, 7]), row, torch.tensor([0, 151_999, 1]))
    assert noise.isfinite().all()


def test_row_seeds_tell_every_part_of_the_identity_apart():
    identities = [(0, "a", 1, 2), (1, "a", 1, 2), (0, "b", 1, 2), (0, "a", 2, 2), (0, "a", 1, 3),
                  (0, "a", 12, 0), (0, "a1", 2, 0)]  # fmt: skip
    seeds = [row_seed(*identity) for identity in identities]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(0, "a", 1, 2) == seeds[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_token_and_the_other_rows_theirs(bad):
    seeds, steps = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    logits = torch.zeros(4, 10)
    sound = sample(logits, seeds, steps, 1.0, 0.95)
    logits[2, 3] = bad
    drawn = sample(logits, seeds, steps, 1.0, 0.95)
    assert int(drawn[2]) == -1
    assert torch.equal(drawn[[0, 1, 3]], sound[[0, 1, 3]])
    with pytest.raises(ModelError, match="1 of 4 rows"):
        drawn_by_definition(logits, seeds, steps, 0.95)
