import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steerproof.decide.analysis.beside import beside
from steerproof.decide.analysis.resampling import (
    BLOCK,
    Counts,
    Resampling,
    percentile_interval,
    pick_counts,
    question_picks,
    rate_draws,
    rates,
    registered_draws,
    resampled_rates,
    two_level_draws,
)


def counts_of(fired: np.ndarray, samples: int = 5) -> Counts:
    total = np.full(fired.shape[:2], float(samples))
    return Counts(fired=fired.astype(float), total=total, questions=np.full(len(fired), 20))


def drawn_counts(rng: np.random.Generator, chance: np.ndarray) -> Counts:
    """Ten personas, twenty questions, five samples; `chance` by persona and question."""
    return counts_of(rng.binomial(5, chance))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def measured(rng) -> Counts:
    return drawn_counts(rng, np.broadcast_to(rng.random((10, 1)), (10, 20)))


def test_a_resample_draws_every_personas_own_number_of_questions(rng):
    questions = np.array([20, 3, 1])
    picks = question_picks(rng, 50, questions)
    for drawn, count in zip(picks, questions, strict=True):
        assert drawn.shape == (50, count)
        assert drawn.max() == count - 1
    assert pick_counts(picks, 20).sum(axis=2).T.tolist() == [[20.0, 3.0, 1.0]] * 50


def test_a_resampled_rate_is_the_sum_of_fired_over_the_sum_of_total():
    # Questions with 1 of 2 and 3 of 6; drawing the second twice gives 6 of 12.
    counts = Counts(
        fired=np.array([[1.0, 3.0]]), total=np.array([[2.0, 6.0]]), questions=np.array([2])
    )
    picks = [np.array([[1, 1], [0, 1]], dtype=np.uint8)]
    drawn = resampled_rates(pick_counts(picks, 2), counts)
    assert drawn.tolist() == [[6 / 12, 4 / 8]]


def test_whole_questions_are_resampled_not_completions():
    # Half the questions always fire, half never: with 20 questions the rate of a resample has
    # standard deviation sqrt(.25 / 20) = 0.112; resampling 100 completions would give 0.05.
    fired = np.tile(np.repeat([5.0, 0.0], 10), (10, 1))
    drawn = rate_draws(counts_of(fired), Resampling(seed=1, iterations=2000))
    assert drawn.std(axis=1) == pytest.approx(np.sqrt(0.25 / 20), rel=0.1)


def test_arms_with_the_same_questions_share_their_draws(measured):
    plan = Resampling(seed=4, iterations=500)
    other = counts_of(5 - measured.fired)  # fires exactly where the first does not
    total = rate_draws(measured, plan) + rate_draws(other, plan)
    np.testing.assert_allclose(total, 1.0, atol=1e-12)


def test_the_first_draws_are_the_same_for_any_length(measured):
    long = rate_draws(measured, Resampling(seed=9, iterations=2 * BLOCK + 10))
    short = rate_draws(measured, Resampling(seed=9, iterations=BLOCK))
    np.testing.assert_array_equal(long[:, :BLOCK], short)


def test_another_seed_draws_other_numbers(measured):
    first, second = (rate_draws(measured, Resampling(seed=s, iterations=100)) for s in (0, 1))
    assert not np.array_equal(first, second)


def test_a_batch_of_tables_is_resampled_like_each_table(rng):
    tables = rng.binomial(5, 0.4, (10, 20, 3))
    plan = Resampling(seed=3, iterations=200)
    together = rate_draws(counts_of(tables), plan)
    for i in range(3):
        np.testing.assert_array_equal(together[..., i], rate_draws(counts_of(tables[..., i]), plan))


def test_the_registered_interval_keeps_the_bridge_and_the_two_level_one_does_not(measured, rng):
    bridge = drawn_counts(rng, np.broadcast_to(rng.random((10, 1)), (10, 20)))
    plan = Resampling(seed=8, iterations=2000)
    fixed = registered_draws(rate_draws(measured, plan), rates(bridge))
    general = two_level_draws(measured, bridge, plan, same_questions=True)
    assert general.std() > 2 * fixed.std()


def test_a_drawn_persona_brings_its_own_bridge_along():
    # Steered and bridge are the same clear staircase: whatever personas are drawn, the pairs
    # stay on a rising line, so rho stays 1. Drawing the sides apart would break it.
    stair = Counts(
        fired=np.arange(10.0)[:, None] * np.ones((1, 20)),
        total=np.full((10, 20), 10.0),
        questions=np.full(10, 20),
    )
    drawn = two_level_draws(stair, stair, Resampling(seed=1, iterations=300), same_questions=True)
    assert (drawn[~np.isnan(drawn)] == 1.0).all()


def test_personas_are_drawn_with_replacement_in_the_two_level_interval():
    # One persona of three differs: it is absent from (2/3)^3 = 0.296 of the resamples, alone in
    # 1/27, and then all rates are equal and rho is undefined: 1/3 of the resamples.
    counts = Counts(
        fired=np.array([[1.0], [1.0], [0.0]]),
        total=np.full((3, 1), 1.0),
        questions=np.ones(3, dtype=np.int64),
    )
    drawn = two_level_draws(
        counts, counts, Resampling(seed=5, iterations=6000), same_questions=True
    )
    assert np.isnan(drawn).mean() == pytest.approx(8 / 27 + 1 / 27, abs=0.02)


@given(arrays(float, (37, 2), elements=st.floats(-1, 1)), st.sampled_from([0.8, 0.95]))
def test_percentiles_are_those_of_numpy(draws, confidence):
    interval = percentile_interval(draws, confidence=confidence, max_undefined=0.0)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    expected = np.quantile(draws, tails, axis=0)
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=1e-12)


def test_a_few_undefined_resamples_are_counted_and_left_out():
    draws = np.append(np.linspace(-1, 1, 199), np.nan)
    interval = percentile_interval(draws, confidence=0.9, max_undefined=0.01)
    assert (int(interval.undefined), float(interval.share)) == (1, 0.005)
    assert interval.low == pytest.approx(np.quantile(draws[:-1], 0.05), abs=1e-12)


def test_too_many_undefined_resamples_leave_no_interval():
    draws = np.append(np.linspace(-1, 1, 97), [np.nan] * 3)
    interval = percentile_interval(draws, confidence=0.9, max_undefined=0.02)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
    assert int(interval.undefined) == 3


def test_nothing_but_undefined_resamples_is_no_interval_either():
    interval = percentile_interval(np.full(10, np.nan), confidence=0.9, max_undefined=1.0)
    assert np.isnan(interval.low)


def test_parts_that_are_worked_on_side_by_side_come_back_in_their_order_and_fail_as_one() -> None:
    def slow_first(part: int) -> int:
        time.sleep(0.05 if part == 0 else 0.0)
        return part

    assert beside(slow_first, range(9)) == list(range(9))
    assert beside(slow_first, []) == []
    with pytest.raises(ZeroDivisionError):
        beside(lambda part: 1 // (part - 3), range(9))
