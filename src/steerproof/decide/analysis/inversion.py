"""Which true rank correlations the data exclude, with the noise of both rankings counted.

For a true correlation r among exactly these personas, tables are drawn that have it and are as
noisy as the real one: shrunken rates whose spread is the true one (constrained empirical Bayes),
paired at random with rank correlation r, plus resampled residuals of persona and question on both
sides. Where the observed correlation lies among theirs tells whether r is compatible with it; the
set of compatible r is a confidence interval by inversion of that test.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from steerproof.decide.analysis.beside import THREADS
from steerproof.decide.analysis.distributions import CONFIDENCE
from steerproof.decide.analysis.reliability import Values, additive_residuals, reliability
from steerproof.decide.analysis.resampling import pick_counts, question_picks
from steerproof.decide.analysis.statistics import centred_ranks, rank_correlation, spearman

Batch = Float[np.ndarray, "*batch"]
Draws = Float[np.ndarray, "personas draws *batch"]

_GRID = tuple(round(-1 + 0.1 * step, 1) for step in range(21))
"""True correlations that are tried, -1 to 1."""
_CANDIDATES = 32
"""Pairings drawn for every one that is kept: for ten personas, kept ones lie within 0.03 of r."""
ROUNDING = 1e-9
"""Two correlations this close are equal."""


class Normals(NamedTuple):
    """Standard normal numbers of which pairings are made."""

    scores: Float[np.ndarray, "candidates personas"]
    apart: Float[np.ndarray, "candidates personas"]
    """What keeps the second ranking from being the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """One ranking with the noise taken out, and draws of that noise; personas in rising order."""

    rates: Float[np.ndarray, "personas *batch"]
    """Shrunken towards their mean until their variance is that of the true rates."""
    drawn: Draws
    """Noise of each persona's mean, resampled."""
    step: float | None
    """Grid of a measured rate, one over its completions; None for a graded outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """How far out the observed correlation lies if the true one is r."""

    below: Batch
    """P(simulated <= observed), `(b + 1) / (m + 1)`: small excludes r from below."""
    above: Batch
    """P(simulated >= observed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """What one table says of the true rank correlation among its personas."""

    rho: float
    """Observed."""
    p_below: float
    """P(simulated <= observed) at the threshold: REFUTED where it is small."""
    interval: tuple[float, float] | None
    """Correlations of the grid that neither tail excludes; None where all are excluded."""


def noise_of(
    values: Values, *, draws: int, rng: np.random.Generator, step: float | None = None
) -> Noise:
    """Take a ranking apart into shrunken rates and resampled noise.

    Residuals of the additive layout are scaled by `sqrt(PQ / ((P-1)(Q-1)))`, for the persona and
    question means that were fitted; each persona's own are drawn, so a rate near 0 or 1 keeps its
    small noise. All tables of a batch share the drawn questions.

    Args:
        values: One number per persona and question, none missing.
        draws: Tables to simulate.
        rng: Source of the drawn questions.
        step: Grid of the measured means, for rates.
    """
    personas, questions = values.shape[:2]
    means = np.asarray(values.mean(axis=1))
    order = np.argsort(means, axis=0, kind="stable")
    means = np.take_along_axis(means, order, axis=0)
    kept = np.sqrt(reliability(values).signal)
    centre = means.mean(axis=0)
    scale = np.sqrt(personas * questions / ((personas - 1) * (questions - 1)))
    residuals = scale * np.take_along_axis(additive_residuals(values), order[:, None], axis=0)
    picks = question_picks(rng, draws, np.full(personas, questions))
    counted = pick_counts(picks, questions)
    drawn = (counted @ residuals.reshape(personas, questions, -1)) / questions
    return Noise(
        rates=np.asarray(centre + kept * (means - centre)),
        drawn=drawn.reshape(personas, draws, *values.shape[2:]),
        step=step,
    )


def pairings(
    personas: int, rho: float, draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "personas draws"]:
    """Random orders of `personas` ranks whose Spearman correlation with 0, 1, 2 ... is near rho.

    Candidates come from a normal copula of that correlation; the nearest ones are kept, so that
    the spread round rho is as small as the number of personas allows.
    """
    return _paired(rho, draws, _normals(personas, draws, rng))


def _normals(personas: int, draws: int, rng: np.random.Generator) -> Normals:
    shape = (_CANDIDATES * draws, personas)
    return Normals(rng.standard_normal(shape), rng.standard_normal(shape))


def _paired(rho: float, draws: int, normals: Normals) -> Int[np.ndarray, "personas draws"]:
    personas = normals.scores.shape[1]
    latent = 2 * np.sin(np.pi * rho / 6)
    mixed = latent * np.sort(normals.scores, axis=1)
    mixed += np.sqrt(max(1 - latent**2, 0.0)) * normals.apart
    ranks = np.argsort(np.argsort(mixed, axis=1), axis=1)
    ideal = np.arange(personas) - (personas - 1) / 2
    reached = (ranks @ ideal) / np.sum(ideal**2)
    nearest = np.argpartition(np.abs(reached - rho), draws - 1)[:draws]
    return np.asarray(ranks[nearest].T)


def measured(noise: Noise, order: Int[np.ndarray, "personas draws"] | None = None) -> Draws:
    """Simulated means, persona by persona, in the order of the pairing."""
    values = noise.rates[:, None] + noise.drawn
    if noise.step is not None:  # ties come back, as do floor and ceiling
        values = np.clip(np.round(values / noise.step), 0, round(1 / noise.step)) * noise.step
    if order is None:
        return np.asarray(values)
    spread = order.reshape(order.shape + (1,) * (values.ndim - 2))
    return np.asarray(np.take_along_axis(values, spread, axis=0))


def tails(
    bridge: Noise, steered: Noise, observed: Batch, rho: float, rng: np.random.Generator
) -> Tails:
    """Test one true correlation.

    A simulated table without a correlation counts in both tails: it excludes nothing.

    Args:
        bridge: The reference ranking.
        steered: The ranking that is compared with it, with as many draws.
        observed: Spearman's rho as measured.
        rho: The true correlation that is supposed.
        rng: Source of the pairings.
    """
    personas, draws = bridge.drawn.shape[:2]
    return _tails(bridge, steered, observed, rho, _normals(personas, draws, rng))


def _tails(bridge: Noise, steered: Noise, observed: Batch, rho: float, normals: Normals) -> Tails:
    draws = bridge.drawn.shape[1]
    order = _paired(rho, draws, normals)
    simulated = rank_correlation(
        centred_ranks(measured(bridge)), centred_ranks(measured(steered, order))
    )
    undefined = np.isnan(simulated)
    below = np.sum(undefined | (simulated <= observed + ROUNDING), axis=0)
    above = np.sum(undefined | (simulated >= observed - ROUNDING), axis=0)
    return Tails(
        below=np.asarray((below + 1) / (draws + 1)), above=np.asarray((above + 1) / (draws + 1))
    )


def invert(
    bridge: Noise,
    steered: Noise,
    observed: float,
    *,
    threshold: float,
    rng: np.random.Generator,
) -> Inversion:
    """The interval of one table, and how far out it lies at the threshold.

    Args:
        bridge: The reference ranking.
        steered: The ranking that is compared with it.
        observed: Spearman's rho as measured.
        threshold: True correlation that the claim needs.
        rng: Source of the pairings.
    """
    rho = np.asarray(observed)
    tail = (1 - CONFIDENCE) / 2
    *tried, at_threshold = _tried(bridge, steered, rho, (*_GRID, threshold), rng)
    each = zip(_GRID, tried, strict=True)
    kept = [r for r, t in each if float(t.below) > tail and float(t.above) > tail]
    return Inversion(
        rho=observed,
        p_below=float(at_threshold.below),
        interval=(min(kept), max(kept)) if kept else None,
    )


def _tried(
    bridge: Noise,
    steered: Noise,
    observed: Batch,
    rhos: Iterable[float],
    rng: np.random.Generator,
) -> Iterator[Tails]:
    """`tails` of each, in order: threads work on some while the numbers of the next are drawn.

    What is random is drawn by one, in order, so threads change nothing but time.
    """
    personas, draws = bridge.drawn.shape[:2]
    ahead: deque[Future[Tails]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for rho in rhos:
            if len(ahead) > THREADS:  # no more than that in memory
                yield ahead.popleft().result()
            normals = _normals(personas, draws, rng)
            ahead.append(pool.submit(_tails, bridge, steered, observed, rho, normals))
        while ahead:
            yield ahead.popleft().result()


def observed_rho(bridge: Values, steered: Values) -> Batch:
    """Spearman's rho of two tables' persona means."""
    return spearman(np.asarray(bridge.mean(axis=1)), np.asarray(steered.mean(axis=1)))
