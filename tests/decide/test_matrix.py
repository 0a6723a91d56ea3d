from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from steerproof.decide.analysis.matrix import (
    contrast,
    discriminant,
    fraction,
    held_out_of,
    jackknifed,
    permutation_p,
    rank_p,
    residuals,
    restricted_orders,
    selectivity,
    tuning,
)


def bystanders(rng: np.random.Generator, count: int = 10, each: int = 2) -> np.ndarray:
    """Trained negatives of every adapter, drawn as the dataset draws them."""
    found = np.zeros((count, count), dtype=bool)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        found[i, rng.choice(others, each, replace=False)] = True
    return found


def tables(
    rng: np.random.Generator, own: float, simulations: int, interaction: float = 1.0
) -> np.ndarray:
    """Rates of ten adapters under ten directions, 20 questions once each."""
    shape = (10, 10, simulations)
    logits = -1.5 + 0.9 * rng.standard_normal((10, 1, simulations))
    logits = logits + 0.6 * rng.standard_normal((1, 10, simulations))
    logits = logits + interaction * rng.standard_normal(shape)
    logits[np.arange(10), np.arange(10)] += own
    effects = 0.8 * rng.standard_normal((1, 1, 20, simulations))
    effects = effects + 0.6 * rng.standard_normal((10, 10, 20, simulations))
    return rng.binomial(1, expit(logits[:, :, None] + effects)).mean(axis=2)


def test_the_three_classes_and_s_by_hand():
    values = np.array(
        [[0.9, 0.1, 0.3, 0.5], [0.2, 0.8, 0.0, 0.4], [0.1, 0.1, 0.7, 0.3], [0, 0, 0.2, 1]]
    )
    negatives = np.zeros((4, 4), dtype=bool)
    negatives[0, 1] = negatives[1, 2] = negatives[2, 3] = negatives[3, 0] = True
    held = held_out_of(negatives)
    assert contrast(values, held) == pytest.approx([0.9 - 0.4, 0.8 - 0.3, 0.7 - 0.1, 1 - 0.1])
    found = selectivity(values, negatives, np.random.default_rng(0))
    assert found is None  # nine orders avoid the negatives: no p could be small
    bounds = jackknifed(values, held)
    assert bounds.mean == pytest.approx(0.625)


def test_the_jackknife_deletes_a_persona_as_adapter_and_as_direction():
    rng = np.random.default_rng(12)
    negatives = bystanders(rng)
    values = rng.random((10, 10))
    without = []
    for k in range(10):
        rest = [i for i in range(10) if i != k]
        differences = [
            values[i, i] - np.mean([values[i, j] for j in rest if j != i and not negatives[i, j]])
            for i in rest
        ]
        without.append(np.mean(differences))
    error = np.sqrt(9 / 10 * np.sum((np.array(without) - np.mean(without)) ** 2))
    found = jackknifed(values, held_out_of(negatives))
    assert found.error == pytest.approx(error)
    half = scipy.stats.t.ppf(0.975, 9) * error
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_nothing_is_said_where_an_adapter_has_no_direction_that_it_never_saw():
    negatives = ~np.eye(3, dtype=bool)
    assert selectivity(np.eye(3), negatives, np.random.default_rng(0)) is None


def test_residuals_are_those_of_least_squares_on_the_allowed_cells():
    rng = np.random.default_rng(1)
    negatives = bystanders(rng, 6, 1)
    values = rng.random((6, 6))
    values[negatives] = np.nan
    left = residuals(values, ~negatives)
    rows, columns = np.nonzero(~negatives)
    design = np.column_stack([rows[:, None] == np.arange(6), columns[:, None] == np.arange(6)])
    fitted = np.linalg.lstsq(design.astype(float), values[rows, columns], rcond=None)[0]
    assert left[rows, columns] == pytest.approx(values[rows, columns] - design @ fitted, abs=1e-12)
    assert left[negatives] == pytest.approx(0)


def test_row_and_column_effects_change_neither_t_nor_p():
    rng = np.random.default_rng(2)
    negatives = bystanders(rng)
    values = rng.random((10, 10))
    drawn = restricted_orders(~negatives, np.random.default_rng(0), 999)
    assert drawn is not None
    shifted = values + 3 * rng.random((10, 1)) - 2 * rng.random((1, 10))
    assert permutation_p(values, ~negatives, drawn) == permutation_p(shifted, ~negatives, drawn)


def test_orders_of_few_adapters_are_all_of_them():
    negatives = bystanders(np.random.default_rng(3), 5, 1)
    found = restricted_orders(~negatives, np.random.default_rng(0), 10)
    expected = {
        order
        for order in permutations(range(5))
        if not any(negatives[i, j] for i, j in enumerate(order)) and order != tuple(range(5))
    }
    assert found is not None
    assert {tuple(order) for order in found.tolist()} == expected


def test_drawn_orders_use_no_trained_negative_and_every_allowed_cell_alike():
    negatives = bystanders(np.random.default_rng(4))
    found = restricted_orders(~negatives, np.random.default_rng(0), 5000)
    assert found is not None
    assert len(found) == 5000
    assert not negatives[np.arange(10), found].any()
    assert all(sorted(order) == list(range(10)) for order in found[:50].tolist())


def test_an_adapter_that_fires_at_everything_does_not_make_the_matrix_selective():
    rng = np.random.default_rng(5)
    negatives = bystanders(rng)
    values = np.tile(rng.random((10, 1)), (1, 10)) + 0.02 * rng.standard_normal((10, 10))
    found = selectivity(values, negatives, np.random.default_rng(0), permutations=999)
    assert found is not None
    assert found.p > 0.05
    assert found.s.low < 0 < found.s.high


def test_a_batch_gives_what_each_table_gives_alone():
    rng = np.random.default_rng(6)
    negatives = bystanders(rng)
    many = tables(rng, 1.0, 3)
    together = selectivity(many, negatives, np.random.default_rng(0), permutations=499)
    assert together is not None
    for k in range(3):
        alone = selectivity(many[..., k], negatives, np.random.default_rng(0), permutations=499)
        assert alone is not None
        assert together.p[k] == alone.p
        assert together.s.low[k] == pytest.approx(float(alone.s.low))
        assert together.own_first[k] == alone.own_first


def test_the_test_keeps_its_size_and_its_interval_covers():
    rng = np.random.default_rng(7)
    negatives = bystanders(rng)
    found = selectivity(tables(rng, 0.0, 1500), negatives, rng, permutations=999)
    assert found is not None
    assert 0.03 <= np.mean(found.p <= 0.05) <= 0.07
    assert 0.93 <= np.mean((found.s.low <= 0) & (found.s.high >= 0)) <= 0.985


def test_a_difference_of_one_logit_is_found_in_seven_of_ten():
    rng = np.random.default_rng(8)
    negatives = bystanders(rng)
    found = selectivity(tables(rng, 1.0, 600), negatives, rng, permutations=999)
    assert found is not None
    assert np.mean(found.p <= 0.05) >= 0.70
    assert found.s.mean.mean() == pytest.approx(0.15, abs=0.02)


def test_a_perfect_reader_is_first_in_every_row_with_the_smallest_p():
    rng = np.random.default_rng(9)
    negatives = bystanders(rng)
    found = selectivity(np.eye(10) * 0.8 + 0.1, negatives, rng, permutations=999)
    assert found is not None
    assert found.s.mean == pytest.approx(0.8)
    assert found.own_first == 10
    assert found.p == pytest.approx(1 / 1000)


def test_the_tuning_curve_ignores_how_often_an_adapter_fires():
    rng = np.random.default_rng(10)
    held = held_out_of(bystanders(rng))
    cosines = rng.random((10, 10))
    response = np.exp(cosines) * 0.1 + rng.random((10, 1)) * 9
    assert tuning(response, cosines, held) == pytest.approx(1.0)
    assert tuning(-response, cosines, held) == pytest.approx(-1.0)
    assert tuning(np.ones((10, 10)), cosines, held) is None


def test_the_discriminant_takes_away_the_nearest_trained_negative():
    cosines = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.4], [0.2, 0.4, 1.0]])
    negatives = np.array([[False, True, True], [False, False, True], [False, False, False]])
    expected = [[1 - 0.5, 0.5 - 1, 0.2 - 1], [0.5 - 0.2, 1 - 0.4, 0.4 - 1], [0.2, 0.4, 1.0]]
    assert discriminant(cosines, negatives) == pytest.approx(np.array(expected))


def test_nineteen_random_draws_are_the_fewest_that_reach_one_in_twenty():
    assert rank_p(0.9, np.zeros(19)) == pytest.approx(0.05)
    assert rank_p(0.5, np.array([0.5, 0.1, 0.9])) == pytest.approx(3 / 4)


def test_a_fraction_of_the_prompts_effect_and_what_it_may_be():
    rng = np.random.default_rng(11)
    held = held_out_of(bystanders(rng))
    prompt = 12 * np.eye(10) + rng.standard_normal((10, 10))
    direction = 1.2 * np.eye(10) + 0.1 * rng.standard_normal((10, 10))
    found = fraction(direction, prompt, held)
    assert found.mean == pytest.approx(0.1, abs=0.02)
    assert found.low < 0.1 < found.high
    exact = fraction(0.25 * prompt, prompt, held)
    assert (exact.mean, exact.error) == pytest.approx((0.25, 0.0), abs=1e-12)
