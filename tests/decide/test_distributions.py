import numpy as np
import pytest
import scipy.special
import scipy.stats

from steerproof.decide.analysis.distributions import (
    f_quantile,
    normal_quantile,
    t_quantile,
    t_tail,
)

SHARES = (0.025, 0.05, 0.25, 0.5, 0.8, 0.9, 0.95, 0.975, 0.995)
SAME = {"rel": 1e-13, "abs": 0.0}
"""Scipy's own error is some units in the sixteenth digit."""


@pytest.mark.parametrize("share", SHARES)
def test_quantiles_are_those_of_scipy(share):
    assert normal_quantile(share) == pytest.approx(scipy.special.ndtri(share), **SAME)
    for freedom in (1, 2, 3, 4, 9, 10, 59, 1999):
        expected = scipy.stats.t.ppf(share, freedom)
        assert t_quantile(share, freedom) == pytest.approx(expected, **SAME)
    for above, below in ((1, 1), (1, 4), (2, 2), (9, 171), (11, 209), (9, 3), (99, 20_000)):
        expected = scipy.stats.f.ppf(share, above, below)
        assert f_quantile(share, above, below) == pytest.approx(expected, **SAME)


@pytest.mark.parametrize("freedom", [1, 2, 9, 60, 1999])
def test_tails_are_those_of_scipy_however_far_out(freedom):
    values = np.array([[-40.0, -2.5, -0.1, 0.0], [0.1, 2.5, 12.0, 40.0]])
    np.testing.assert_allclose(
        t_tail(values, freedom), scipy.stats.t.sf(values, freedom), rtol=1e-12, atol=0
    )


def test_values_without_a_number_have_tails_of_their_limits():
    found = t_tail(np.array([np.inf, -np.inf, np.nan]), 9)
    np.testing.assert_array_equal(found, [0.0, 1.0, np.nan])


def test_without_a_degree_of_freedom_there_is_no_quantile():
    found = [t_quantile(0.975, 0), f_quantile(0.975, 0, 4), f_quantile(0.975, 4, 0)]
    assert np.isnan([*found, *t_tail(np.array([1.0]), 0)]).all()


@pytest.mark.parametrize(
    ("found", "printed"),
    [
        # Each printed with 40 digits by mpmath.
        (normal_quantile(0.975), 1.959963984540054235524594430520551527956),
        (t_quantile(0.975, 1), 12.70620473617470464602167997884208746767),  # 1 / tan(pi / 40)
        (t_quantile(0.975, 2), 4.302652729749463852320943892621175008188),  # 0.95 sqrt(2 / 0.0975)
        (f_quantile(0.95, 2, 2), 19.0),
    ],
)
def test_a_quantile_is_right_to_the_last_bit(found, printed):
    assert found == printed
