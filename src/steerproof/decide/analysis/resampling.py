"""Bootstrap intervals: which draws are made, and what is recomputed on each.

The registered interval resamples the questions inside every persona and keeps the personas and
the bridge: it speaks of *these* personas. The two-level interval resamples the personas too, each
with both of its rates, and speaks of personas in general.

A resample is a count per question, so resampled rates are one matrix product, exact in float64.
Draws are made in blocks with a stream each: any longer run gives the
same first draws; and all arms share them, which is what pairs their differences.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt

from steerproof.decide.analysis.beside import beside
from steerproof.decide.analysis.statistics import centred_ranks, rank_correlation, spearman
from steerproof.spec.seeds import derived_seed

BLOCK = 1_000
"""Iterations that share one random stream."""


Picks = list[UInt[np.ndarray, "iterations _"]]
"""For every persona, the questions drawn in every resample, by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one kind of cell measured, question by question; absent questions are zero."""

    fired: Float[np.ndarray, "personas questions *batch"]
    """Completions with the marker."""
    total: Float[np.ndarray, "personas questions"]
    """Completions."""
    questions: Int[np.ndarray, " personas"]
    """Number of questions of each persona: its first so many columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How many resamples, and from which seed."""

    seed: int
    iterations: int = 10_000


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Random numbers that depend on the experiment's seed and on what they are for alone."""
    return np.random.Generator(np.random.Philox(derived_seed("decide", seed, *names)))


def rates(counts: Counts) -> Float[np.ndarray, "personas *batch"]:
    """Sum of fired over sum of total, per persona."""
    total = counts.total.sum(axis=1)
    return counts.fired.sum(axis=1) / total.reshape(total.shape + (1,) * (counts.fired.ndim - 2))


def question_picks(
    rng: np.random.Generator, iterations: int, questions: Int[np.ndarray, " personas"]
) -> Picks:
    """Draw, for every persona, as many of its questions as it has, with replacement."""
    return [
        rng.integers(0, count, size=(iterations, count), dtype=np.min_scalar_type(count))
        for count in questions.tolist()
    ]


def pick_counts(picks: Picks, questions: int) -> Float[np.ndarray, "personas iterations questions"]:
    """How often each of `questions` columns was picked."""
    iterations = len(picks[0])
    first = np.arange(0, iterations * questions, questions)[:, None]
    counted = np.empty((len(picks), iterations * questions))
    for row, picked in zip(counted, picks, strict=True):
        row[:] = np.bincount((first + picked).ravel(), minlength=row.size)
    return counted.reshape(len(picks), iterations, questions)


def resampled_rates(
    counted: Float[np.ndarray, "personas iterations questions"], counts: Counts
) -> Float[np.ndarray, "personas iterations *batch"]:
    """The rate of every persona in every resample."""
    fired = counts.fired.reshape(*counts.total.shape, -1)
    total = counted @ counts.total[:, :, None]
    shape = (*counted.shape[:2], *counts.fired.shape[2:])
    return ((counted @ fired) / total).reshape(shape)


def rate_draws(counts: Counts, plan: Resampling) -> Float[np.ndarray, "personas iterations *batch"]:
    """The rate of every persona in every resample of its questions.

    Cells with the same questions get the same draws, so their differences are paired.
    """

    def block(index: int, iterations: int) -> Float[np.ndarray, "personas iterations *batch"]:
        rng = stream(plan.seed, "questions", index)
        picks = question_picks(rng, iterations, counts.questions)
        return resampled_rates(pick_counts(picks, counts.total.shape[1]), counts)

    return _in_blocks(block, plan, axis=1)


def registered_draws(
    steered: Float[np.ndarray, "personas iterations *batch"],
    bridge: Float[np.ndarray, "personas *batch"],
) -> Float[np.ndarray, "iterations *batch"]:
    """Spearman's rho in every resample of questions, the bridge fixed.

    Args:
        steered: Rates from `rate_draws`.
        bridge: Bridge rates as measured, never resampled.

    Returns:
        One rho per iteration; NaN where the resampled rates are constant.
    """
    return rank_correlation(centred_ranks(steered), centred_ranks(bridge)[:, None])


def two_level_draws(
    steered: Counts, bridge: Counts, plan: Resampling, *, same_questions: bool
) -> Float[np.ndarray, "iterations *batch"]:
    """Spearman's rho when personas are drawn first, and questions inside each drawn persona.

    A persona drawn twice gets two draws of questions. The bridge of a drawn persona comes with
    it: on the same drawn questions if both were asked the same ones, on its own otherwise.

    Args:
        steered: Counts of the steered cells.
        bridge: Counts of the bridge cells; one column of totals keeps them fixed.
        plan: Iterations and seed.
        same_questions: Both were asked the same questions in the same order.

    Returns:
        One rho per iteration; NaN where either side is constant.
    """
    personas = len(steered.questions)

    def block(index: int, iterations: int) -> Float[np.ndarray, "iterations *batch"]:
        rng = stream(plan.seed, "two-level", index)
        people = rng.integers(0, personas, size=(personas, iterations))
        drawn = _persona_picks(rng, people, steered)
        again = drawn if same_questions else _persona_picks(rng, people, bridge)
        return spearman(_drawn_rates(people, drawn, steered), _drawn_rates(people, again, bridge))

    return _in_blocks(block, plan)


def _persona_picks(
    rng: np.random.Generator, people: Int[np.ndarray, "personas iterations"], counts: Counts
) -> Float[np.ndarray, "drawn questions"]:
    """How often each question was drawn for every drawn persona, slot by slot."""
    width = counts.total.shape[1]
    limit = counts.questions[people].ravel()
    chosen = (rng.random((people.size, width)) * limit[:, None]).astype(np.int64)
    places = np.arange(0, people.size * width, width)[:, None] + chosen
    asked = places[np.arange(width) < limit[:, None]]
    return np.bincount(asked, minlength=people.size * width).astype(float).reshape(-1, width)


def _drawn_rates(
    people: Int[np.ndarray, "personas iterations"],
    drawn: Float[np.ndarray, "drawn questions"],
    counts: Counts,
) -> Float[np.ndarray, "personas iterations *batch"]:
    """The rate of every drawn persona on its drawn questions."""
    who = people.ravel()
    fired = counts.fired.reshape(*counts.total.shape, -1)
    rates = np.empty((len(who), fired.shape[2]))
    for persona in range(len(fired)):
        mine = np.flatnonzero(who == persona)
        rows = drawn[mine]
        rates[mine] = (rows @ fired[persona]) / (rows @ counts.total[persona])[:, None]
    return rates.reshape(*people.shape, *counts.fired.shape[2:])


def _in_blocks(
    block: Callable[[int, int], np.ndarray], plan: Resampling, axis: int = 0
) -> np.ndarray:
    """Run the blocks of a plan and join them, in order, along their iterations."""
    sizes = [min(BLOCK, plan.iterations - start) for start in range(0, plan.iterations, BLOCK)]
    drawn = beside(lambda part: block(*part), enumerate(sizes))
    return np.concatenate(drawn, axis=axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A percentile interval and how many resamples had no value."""

    low: Float[np.ndarray, "*batch"]
    """Lower bound; NaN when too many resamples are undefined."""
    high: Float[np.ndarray, "*batch"]
    """Upper bound; NaN when too many resamples are undefined."""
    undefined: Int[np.ndarray, "*batch"]
    """Resamples without a value."""
    share: Float[np.ndarray, "*batch"]
    """The same as a share of all resamples."""


def percentile_interval(
    draws: Float[np.ndarray, "iterations *batch"], *, confidence: float, max_undefined: float
) -> Interval:
    """The central percentiles of the resamples that have a value.

    Leaving out undefined resamples conditions on the data being informative, so it is done for
    the allowed share only; above it there is no interval.

    Args:
        draws: One value per iteration; NaN where undefined.
        confidence: Level, such as 0.95.
        max_undefined: Largest share of undefined resamples that still gives an interval.
    """
    undefined = np.asarray(np.isnan(draws).sum(axis=0))
    share = np.asarray(undefined / len(draws))
    ordered = np.sort(draws, axis=0)  # NaN last
    last = np.maximum(len(draws) - undefined - 1, 0)
    low, high = (
        np.where(share > max_undefined, np.nan, _at_position(ordered, np.asarray(last * q)))
        for q in ((1 - confidence) / 2, (1 + confidence) / 2)
    )
    return Interval(low=low, high=high, undefined=undefined, share=share)


def _at_position(
    ordered: Float[np.ndarray, "iterations *batch"], position: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch"]:
    """Linear interpolation between order statistics (numpy's default quantile)."""
    below = np.floor(position).astype(np.int64)
    above = np.ceil(position).astype(np.int64)
    lower = np.take_along_axis(ordered, below[None], axis=0)[0]
    upper = np.take_along_axis(ordered, above[None], axis=0)[0]
    return np.asarray(lower + (upper - lower) * (position - below))
