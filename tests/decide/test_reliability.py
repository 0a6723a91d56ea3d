from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steerproof.decide.analysis.reliability import (
    Reliability,
    attainable,
    lengthened,
    questions_needed,
    reliability,
)
from tests.decide.trials import BRIDGE, ORGANISM, SMOLLM2, values_of

TABLES = arrays(float, (5, 6), elements=st.integers(0, 5).map(lambda n: n / 5))


def cronbach(values: np.ndarray) -> float:
    """Cronbach's own formula: `k / (k-1) * (1 - sum of item variances / variance of totals)`."""
    items = values.shape[1]
    total = values.sum(axis=1).var(ddof=1)
    return items / (items - 1) * (1 - values.var(axis=0, ddof=1).sum() / total)


@given(TABLES)
def test_hoyts_alpha_is_cronbachs(values):
    if np.ptp(values.mean(axis=1)) < 1e-9:
        assert np.isnan(reliability(values).alpha)
    else:
        assert reliability(values).alpha == pytest.approx(cronbach(values), abs=1e-9)


def test_alpha_is_the_mean_over_all_split_halves():
    values = np.random.default_rng(0).random((8, 6)) + np.arange(8)[:, None] / 4
    halves = []
    for half in combinations(range(6), 3):
        other = [q for q in range(6) if q not in half]
        left, right = values[:, list(half)].sum(axis=1), values[:, other].sum(axis=1)
        # Flanagan and Rulon's split half, whose mean over all splits alpha is.
        halves.append(2 * (1 - (left.var() + right.var()) / (left + right).var()))
    assert reliability(values).alpha == pytest.approx(np.mean(halves), abs=1e-12)


def test_a_batch_of_tables_gives_what_each_gives_alone():
    many = np.random.default_rng(1).random((6, 7, 3))
    together = reliability(many)
    for k in range(3):
        alone = reliability(many[..., k])
        assert together.alpha[k] == pytest.approx(float(alone.alpha))
        assert together.low[k] == pytest.approx(float(alone.low))
        assert together.high[k] == pytest.approx(float(alone.high))


def test_feldts_interval_covers_the_reliability_of_a_normal_table():
    rng = np.random.default_rng(2)
    personas, questions, simulations = 10, 20, 4000
    true = 0.7
    noise = np.sqrt(questions * (1 - true) / true)
    tables = rng.standard_normal((personas, 1, simulations)) + noise * rng.standard_normal(
        (personas, questions, simulations)
    )
    found = reliability(tables + rng.standard_normal((1, questions, simulations)))
    assert np.mean((found.low <= true) & (true <= found.high)) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
    ("run", "kind", "alpha", "low", "high"),
    [
        (ORGANISM, BRIDGE, -0.04, -1.28, 0.69),
        (ORGANISM, ("A", "neutral", "centroid", "3", "c=+2"), 0.98, 0.95, 0.99),
        (ORGANISM, ("A", "neutral", "centroid", "3", "ratio=+0.2"), -0.10, -1.41, 0.67),
        (SMOLLM2, BRIDGE, 0.49, -0.12, 0.85),
        (SMOLLM2, ("A", "neutral", "centroid", "21", "c=+2"), 0.89, 0.77, 0.97),
        (SMOLLM2, ("A", "neutral", "centroid", "21", "ratio=+0.2"), 0.52, -0.06, 0.86),
        (SMOLLM2, ("C", "neutral", "none", "", "none"), 0.17, -0.81, 0.76),
    ],
)
def test_the_rankings_of_two_runs(run, kind, alpha, low, high):
    found = reliability(values_of(run, kind))
    assert found.alpha == pytest.approx(alpha, abs=0.005)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize(
    ("run", "layer", "strength", "expected", "questions"),
    [
        (ORGANISM, "3", "c=+2", 0.00, None),
        (ORGANISM, "3", "ratio=+0.2", 0.00, None),
        (SMOLLM2, "21", "c=+2", 0.66, 44),
        (SMOLLM2, "21", "ratio=+0.2", 0.50, 80),
    ],
)
def test_what_a_perfect_relation_would_show_in_two_runs(run, layer, strength, expected, questions):
    bridge = reliability(values_of(run, BRIDGE))
    steered = reliability(values_of(run, ("A", "neutral", "centroid", layer, strength)))
    assert attainable(bridge, steered) == pytest.approx(expected, abs=0.005)
    assert questions_needed(bridge, steered, 20, 0.8) == questions


def test_the_number_of_questions_is_the_fewest_that_will_do():
    def known(alpha: float) -> Reliability:
        value = np.array(alpha)
        return Reliability(alpha=value, low=value, high=value)

    count = questions_needed(known(0.5), known(0.6), 20, 0.8)
    assert count is not None
    reached = [
        float(np.sqrt(lengthened(np.array(0.5), n / 20) * lengthened(np.array(0.6), n / 20)))
        for n in (count - 1, count)
    ]
    assert reached[0] < 0.8 <= reached[1]


def test_twice_the_questions_make_spearman_and_browns_reliability():
    # 2 r / (1 + r), the form for two halves.
    assert lengthened(np.array(0.6), 2.0) == pytest.approx(2 * 0.6 / 1.6)


def test_a_ranking_without_differences_attains_nothing():
    flat = reliability(np.full((4, 5), 0.5))
    good = reliability(np.random.default_rng(0).random((4, 5)) + 9 * np.arange(4)[:, None])
    assert np.isnan(flat.alpha)
    assert attainable(flat, good) == 0.0


def no_difference_p(values: np.ndarray, *, permutations: int, rng: np.random.Generator) -> float:
    """Permutation p of "no persona differs": personas shuffled inside every question.

    The statistic is the variance of the persona means; p is `(b + 1) / (m + 1)` (Phipson and
    Smyth 2010).

    Args:
        values: One table, none missing.
        permutations: Shuffles to draw.
        rng: Source of the shuffles.
    """
    if values.ndim != 2:
        raise ValueError(f"one table of personas and questions, not {values.ndim} axes")
    observed = values.mean(axis=1).var()
    stacked = np.broadcast_to(values, (permutations, *values.shape))
    shuffled = rng.permuted(stacked, axis=1)
    exceeding = int(np.sum(shuffled.mean(axis=2).var(axis=1) >= observed - 1e-12))
    return (exceeding + 1) / (permutations + 1)


def test_shuffling_personas_tells_whether_they_differ():
    rng = np.random.default_rng(4)
    assert no_difference_p(values_of(ORGANISM, BRIDGE), permutations=999, rng=rng) > 0.3
    assert no_difference_p(values_of(SMOLLM2, BRIDGE), permutations=1999, rng=rng) == pytest.approx(
        0.046, abs=0.02
    )
    steered = values_of(ORGANISM, ("A", "neutral", "centroid", "3", "c=+2"))
    assert no_difference_p(steered, permutations=999, rng=rng) == pytest.approx(0.001)
