import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steerproof.decide.analysis.permutation import paired_test, pairing_counts, permutation_test
from steerproof.decide.analysis.statistics import centred_ranks, spearman

few_values = st.integers(0, 4).map(float)


def p_value(left, right, permutations=99, seed=0):
    rng = np.random.default_rng(seed)
    test = permutation_test(left, right, permutations=permutations, rng=rng)
    return None if test is None else test.p


@settings(max_examples=25)
@given(arrays(float, 5, elements=few_values), arrays(float, 5, elements=few_values))
def test_the_exact_p_is_the_share_of_all_orders_that_are_as_extreme(left, right):
    observed = abs(spearman(left, right))
    if np.isnan(observed):
        assert p_value(left, right) is None
        return
    orders = list(itertools.permutations(right))
    extreme = np.abs(spearman(left[:, None], np.array(orders).T)) >= observed
    assert p_value(left, right) == pytest.approx(np.mean(extreme), abs=1e-15)


def test_every_one_of_the_orders_of_ten_personas_is_counted_once():
    ranks = centred_ranks(np.arange(10.0))
    counts, bound = pairing_counts(ranks, ranks)
    assert counts.sum() == 3628800
    assert counts[0] == counts[-1] == 1  # the perfect orders, up and down
    assert bound == 330


@pytest.mark.parametrize(("rho", "p"), [(0.648, 0.049), (0.636, 0.054), (0.794, 0.0088)])
def test_exact_tail_areas_of_ten_personas_match_the_tables_of_spearman(rho, p):
    # Two-sided tail areas of Spearman's rho at n = 10 without ties (Zar 1972, table).
    ranks = centred_ranks(np.arange(10.0))
    counts, bound = pairing_counts(ranks, ranks)
    values = np.abs(np.arange(-bound, bound + 1)) / 330
    tail = counts[values >= rho - 5e-4].sum() / counts.sum()
    assert tail == pytest.approx(p, abs=6e-4)


def test_drawn_orders_agree_with_counted_ones_and_are_never_zero():
    rng = np.random.default_rng(5)
    left = rng.random(13)
    right = left + rng.normal(0, 0.4, 13)
    drawn = p_value(left, right, permutations=19999)
    orders = np.random.default_rng(6).permuted(np.tile(right, (20000, 1)), axis=1).T
    observed = abs(scipy.stats.spearmanr(left, right).statistic)
    reference = np.mean(np.abs(spearman(left[:, None], orders)) >= observed - 1e-12)
    assert drawn == pytest.approx(reference, abs=0.01)
    assert p_value(np.arange(14.0), np.arange(14.0)) == 1 / 100  # (0 + 1) / (99 + 1)


def test_a_paired_test_of_a_worked_example():
    # Differences 1 2 3 4 -0.5 and one 0: four of five rise. Sign test (5 + 1) / 32. The signed
    # rank sum is 2+3+4+5 = 14 of 15; only the full sum 15 is larger: 2 / 32.
    test = paired_test(np.array([1.0, 2.0, 3.0, 4.0, -0.5, 0.0]))
    assert (test.n_greater, test.n_less, test.n_equal) == (4, 1, 1)
    assert test.sign_p == 6 / 32
    assert test.signed_rank_p == 2 / 32


@given(st.lists(st.integers(-20, 20).filter(bool), min_size=3, max_size=10, unique_by=abs))
def test_paired_tests_agree_with_scipy(differences):
    values = np.array(differences, dtype=float)
    test = paired_test(values)
    positive = int((values > 0).sum())
    sign = scipy.stats.binomtest(positive, len(values), alternative="greater").pvalue
    rank = scipy.stats.wilcoxon(values, alternative="greater", method="exact").pvalue
    assert test.sign_p == pytest.approx(sign, abs=1e-12)
    assert test.signed_rank_p == pytest.approx(rank, abs=1e-12)


def test_without_any_difference_there_is_no_test():
    test = paired_test(np.zeros(4))
    assert (test.n_equal, test.sign_p, test.signed_rank_p) == (4, None, None)
