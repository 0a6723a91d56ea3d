import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steerproof.decide.analysis.statistics import (
    average_ranks,
    centred_ranks,
    kendall_tau,
    logistic,
    logit,
    spearman,
    wilson_half_width,
    wilson_interval,
)

few_values = st.integers(0, 5).map(lambda k: k / 5)
"""Rates of few completions: ties are common."""


def pair(size: int | None = None):
    sizes = st.integers(3, 12) if size is None else st.just(size)
    return sizes.flatmap(
        lambda n: st.tuples(
            arrays(float, n, elements=few_values), arrays(float, n, elements=few_values)
        )
    )


def test_average_ranks_of_a_worked_example():
    # Sorted: 0.1 | 0.3 0.3 | 0.7 | 0.9 0.9 0.9 take ranks 1 | 2.5 2.5 | 4 | 6 6 6.
    values = np.array([0.9, 0.3, 0.1, 0.9, 0.3, 0.7, 0.9])
    assert average_ranks(values).tolist() == [6, 2.5, 1, 6, 2.5, 4, 6]


def test_centred_ranks_count_the_smaller_minus_the_larger():
    # 0.1 has 0 below and 2 above; the tied pair has 1 below and 0 above.
    assert centred_ranks(np.array([0.5, 0.1, 0.5])).tolist() == [1, -2, 1]


def test_ranks_of_more_than_128_personas_do_not_overflow():
    values = np.arange(400.0)
    assert average_ranks(values).tolist() == list(range(1, 401))


@given(arrays(float, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=few_values))
def test_ranks_agree_with_scipy_column_by_column(values):
    np.testing.assert_array_equal(average_ranks(values), scipy.stats.rankdata(values, axis=0))


def test_spearman_of_a_worked_example_without_ties():
    # Ranks 1..5 against 2,1,4,3,5: d = -1,1,-1,1,0, so rho = 1 - 6*4/(5*24) = 0.8.
    assert spearman(np.arange(5.0), np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == 0.8


def test_spearman_of_a_worked_example_with_ties():
    # x ranks 1.5 1.5 3 4, y ranks 1 2 3.5 3.5; centred products: 1.5*1 + .5*1 + .5*1 + 1.5*1
    # = (-1)(-1.5) + (-1)(-.5) + (.5)(1) + (1.5)(1) = 4; squares 4.5 and 4.5; rho = 4 / 4.5.
    rho = spearman(np.array([0.0, 0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0, 2.0]))
    assert rho == pytest.approx(8 / 9, abs=1e-15)


def test_a_correlation_of_exactly_the_threshold_compares_as_equal():
    # Ranks 0..9 against 4 1 2 3 0 9 6 7 8 5 swap two pairs four apart: 4 * 16 = 64; swapping
    # the neighbours 1 and 2 as well adds 2. rho = 1 - 6 * 66 / 990 = 0.6.
    other = np.array([4, 2, 1, 3, 0, 9, 6, 7, 8, 5.0])
    assert spearman(np.arange(10.0), other) == 0.6


@given(pair())
def test_spearman_agrees_with_scipy_with_ties(values):
    left, right = values
    assume(len(set(left)) > 1 and len(set(right)) > 1)
    expected = scipy.stats.spearmanr(left, right).statistic
    assert spearman(left, right) == pytest.approx(expected, abs=1e-12)


def test_a_constant_has_no_correlation():
    assert np.isnan(spearman(np.full(10, 0.3), np.arange(10.0)))
    assert np.isnan(spearman(np.arange(10.0), np.zeros(10)))


def test_missing_personas_are_left_out_of_both_sides():
    left = np.array([0.1, np.nan, 0.3, 0.2, 0.9])
    right = np.array([0.2, 0.9, np.nan, 0.1, 0.5])
    assert spearman(left, right) == spearman(left[[0, 3, 4]], right[[0, 3, 4]])


@given(pair(8))
def test_any_increasing_change_of_scale_leaves_spearman_alone(values):
    left, right = values
    np.testing.assert_equal(spearman(np.exp(3 * left), right**3), spearman(left, right))


@given(pair(8), st.permutations(range(8)))
def test_the_order_of_personas_does_not_matter(values, order):
    left, right = values
    np.testing.assert_equal(spearman(left[order], right[order]), spearman(left, right))


@given(pair(8))
def test_turning_one_side_round_turns_the_sign(values):
    left, right = values
    np.testing.assert_equal(spearman(-left, right), -spearman(left, right))


def test_many_tables_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 4, (10, 5, 3)) / 4, rng.integers(0, 4, (10, 3)) / 4
    together = spearman(left, right)
    for i in range(5):
        for j in range(3):
            np.testing.assert_equal(together[i, j], spearman(left[:, i, j], right[:, j]))


@given(pair())
def test_kendall_tau_agrees_with_scipy(values):
    left, right = values
    assume(len(set(left)) > 1 and len(set(right)) > 1)
    expected = scipy.stats.kendalltau(left, right).statistic
    assert kendall_tau(left, right) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("fired", "total"), [(0, 100), (3, 100), (50, 100), (100, 100), (1, 3)])
def test_wilson_intervals_agree_with_scipy(fired, total):
    expected = scipy.stats.binomtest(fired, total).proportion_ci(0.9, method="wilson")
    low, high = wilson_interval(np.array(float(fired)), np.array(float(total)), 0.9)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_half_width_of_a_worked_example():
    # No marker in 100: z^2 / (2 n) / (1 + z^2 / n) = 3.8415 / 200 / 1.038415 = 0.018497.
    half = wilson_half_width(np.array(0.0), np.array(100.0), 0.95)
    assert half == pytest.approx(0.018497, abs=1e-6)


def test_log_odds_and_their_rates_agree_with_scipy_however_far_out():
    logits = np.array([-800.0, -40.0, -1.5, 0.0, 1e-9, 3.0, 40.0, 800.0])
    np.testing.assert_allclose(logistic(logits), scipy.special.expit(logits), rtol=1e-14, atol=0)
    rates = np.array([1e-300, 0.002, 0.3, 0.5, 0.998])
    np.testing.assert_allclose(logit(rates), scipy.special.logit(rates), rtol=1e-14, atol=0)
