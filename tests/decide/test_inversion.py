import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from steerproof.decide.analysis.inversion import (
    invert,
    measured,
    noise_of,
    observed_rho,
    pairings,
    tails,
)
from steerproof.decide.analysis.reliability import reliability
from tests.decide.trials import BRIDGE, SMOLLM2, values_of


def smollm2(strength: str) -> tuple[np.ndarray, np.ndarray]:
    return values_of(SMOLLM2, BRIDGE), values_of(
        SMOLLM2, ("A", "neutral", "centroid", "21", strength)
    )


@pytest.mark.parametrize(
    ("strength", "p", "high"), [("c=+2", 0.003, 0.1), ("ratio=+0.2", 0.0, -0.2)]
)
def test_what_the_trial_on_a_real_model_excludes(strength, p, high):
    bridge, steered = smollm2(strength)
    rng = np.random.default_rng(0)
    found = invert(
        noise_of(bridge, draws=1000, rng=rng, step=0.01),
        noise_of(steered, draws=1000, rng=rng, step=0.01),
        float(observed_rho(bridge, steered)),
        threshold=0.6,
        rng=rng,
    )
    assert found.p_below == pytest.approx(p, abs=0.0045)
    assert found.interval is not None
    assert found.interval[0] == -1.0
    assert found.interval[1] == pytest.approx(high, abs=0.101)


def test_the_same_seed_gives_the_same_interval():
    bridge, steered = smollm2("c=+2")

    def once() -> object:
        rng = np.random.default_rng(7)
        left, right = (noise_of(v, draws=99, rng=rng, step=0.01) for v in (bridge, steered))
        return invert(left, right, -0.389, threshold=0.6, rng=rng)

    assert once() == once()


def test_threads_change_no_number():
    """Each correlation is tried with the numbers that it would get one after another."""
    bridge, steered = smollm2("c=+2")
    rng = np.random.default_rng(7)
    left, right = (noise_of(v, draws=99, rng=rng, step=0.01) for v in (bridge, steered))
    after = np.random.default_rng(8)
    found = invert(left, right, -0.389, threshold=0.6, rng=after)
    alone = np.random.default_rng(8)
    rhos = [*(round(-1 + 0.1 * step, 1) for step in range(21)), 0.6]
    *tried, at = [tails(left, right, np.asarray(-0.389), rho, alone) for rho in rhos]
    kept = [r for r, t in zip(rhos[:-1], tried, strict=True) if min(t.below, t.above) > 0.025]
    assert (found.p_below, found.interval) == (float(at.below), (min(kept), max(kept)))
    assert after.random() == alone.random()


@pytest.mark.parametrize("rho", [-1.0, -0.4, 0.0, 0.6, 0.9, 1.0])
def test_pairings_have_the_rank_correlation_asked_for(rho):
    orders = pairings(10, rho, 200, np.random.default_rng(1))
    found = [scipy.stats.spearmanr(np.arange(10), order).statistic for order in orders.T]
    assert np.abs(np.array(found) - rho).max() < 0.035
    assert len({tuple(order) for order in orders.T.tolist()}) > 100 or abs(rho) == 1.0


def test_shrunken_rates_have_the_variance_of_the_true_ones():
    bridge, _ = smollm2("c=+2")
    noise = noise_of(bridge, draws=5, rng=np.random.default_rng(0), step=0.01)
    means = bridge.mean(axis=1)
    alpha = float(reliability(bridge).alpha)
    assert noise.rates.var() == pytest.approx(alpha * means.var())
    assert noise.rates.mean() == pytest.approx(means.mean())
    assert (np.diff(noise.rates) >= 0).all()


def test_the_drawn_noise_has_the_variance_of_a_mean_of_questions():
    values = np.random.default_rng(3).standard_normal((10, 20))
    noise = noise_of(values, draws=4000, rng=np.random.default_rng(0))
    # Independent residuals of variance 1: the mean of 20 has variance 1/20.
    assert noise.drawn.var(axis=1).mean() == pytest.approx(1 / 20, rel=0.15)


def test_simulated_rates_lie_on_the_grid_of_completions():
    bridge, _ = smollm2("c=+2")
    noise = noise_of(bridge, draws=50, rng=np.random.default_rng(0), step=0.01)
    rates = measured(noise)
    assert rates.min() >= 0
    assert rates.max() <= 1
    assert np.allclose(rates * 100, np.round(rates * 100))
    assert not np.allclose(noise.drawn * 100, np.round(noise.drawn * 100))


def tables(
    rng: np.random.Generator, spread: float, rho: float, simulations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logit-normal tables of ten personas whose true rank correlation is rho."""
    order = pairings(10, rho, simulations, rng)
    sides = []
    for median, scale in ((-0.3, 1.0), (-0.85, 1.5)):
        logits = median + scale * spread * np.sort(rng.standard_normal((10, simulations)), axis=0)
        if len(sides):
            logits = np.take_along_axis(logits, order, axis=0)
        effects = 0.8 * rng.standard_normal((1, 20, simulations))
        effects = effects + 0.6 * rng.standard_normal((10, 20, simulations))
        sides.append(rng.binomial(5, expit(logits[:, None] + effects)) / 5)
    return sides[0], sides[1]


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_a_true_correlation_is_excluded_about_as_seldom_as_the_level_says(rho):
    rng = np.random.default_rng(5)
    bridge, steered = tables(rng, 1.2, rho, 200)
    left, right = (noise_of(v, draws=300, rng=rng, step=0.01) for v in (bridge, steered))
    found = tails(left, right, observed_rho(bridge, steered), rho, rng)
    covered = np.mean((found.below > 0.025) & (found.above > 0.025))
    assert 0.90 <= covered <= 1.0
    assert np.mean(found.below <= 0.05) <= 0.09


def test_an_order_without_relation_is_told_from_the_threshold():
    rng = np.random.default_rng(6)
    bridge, steered = tables(rng, 1.2, 0.0, 200)
    left, right = (noise_of(v, draws=300, rng=rng, step=0.01) for v in (bridge, steered))
    found = tails(left, right, observed_rho(bridge, steered), 0.6, rng)
    assert np.mean(found.below <= 0.05) >= 0.60


def test_constant_rates_exclude_nothing():
    flat = np.full((10, 20), 0.4)
    rng = np.random.default_rng(0)
    left, right = (noise_of(v, draws=99, rng=rng, step=0.01) for v in (flat, smollm2("c=+2")[1]))
    found = tails(left, right, np.array(0.0), 0.6, rng)
    assert (found.below, found.above) == (1.0, 1.0)
