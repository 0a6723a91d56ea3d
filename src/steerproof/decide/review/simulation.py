"""Simulated experiments: rate tables whose truth is known.

The model, in full. Every persona has a latent propensity to fire when prompted and another when
steered; they are normal with a correlation chosen so that Spearman's correlation in the population
of personas is the asked one (a Gaussian copula on ranks). A rate is the logistic function of a
median logit plus a spread times the propensity; below a floor it is zero. Two normal effects on
the logit make completions cluster by question: one of the question, the same for all personas and
cells, and one of the (cell, question) pair, of which the cells of a persona can share a part.
Given these, completions are independent.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.inversion import pairings
from steerproof.decide.analysis.statistics import logistic, logit

Cells = Float[np.ndarray, "personas questions simulations"]
_Latent = Float[np.ndarray, "personas simulations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """How often the personas fire in one kind of cell."""

    median: float
    """Rate of the median persona at the median question."""
    spread: float
    """Standard deviation of the personas' logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateModel:
    """The stated model, with defaults near the published rates of the parent runs."""

    bridge: Margin = Margin(median=0.42, spread=0.6)
    """Prompt-only arm, prompted: published 0.23 to 0.67 over twelve personas."""
    steered: Margin = Margin(median=0.30, spread=0.9)
    """Tested arm, steered."""
    unsteered: Margin = Margin(median=0.05, spread=0.9)
    """Tested arm, neutral and unsteered."""
    prompted: Margin = Margin(median=0.30, spread=0.6)
    """Tested arm, prompted; ranked as when steered."""
    prompt_gain: float = 0.5
    """Logits that steering adds while the persona prompt is on."""
    isotropic: Margin = Margin(median=0.15, spread=0.9)
    """Control arm with random directions, steered; its ranking is independent."""
    baseline: Margin = Margin(median=0.10, spread=0.9)
    """Prompt-only arm, steered; its ranking is independent."""
    question_spread: float = 0.8
    """Standard deviation of the effects of the questions, in logits."""
    cluster_spread: float = 0.6
    """Standard deviation of the effects of the (cell, question) pairs, in logits."""
    shared: float = 0.0
    """Share of the variance of the latter that all cells of a persona have in common."""
    floor: float = 0.0
    """A persona whose rate at the median question is below this never fires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Sizes of a simulated experiment."""

    personas: int = 10
    questions: int = 20
    samples: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTables:
    """Fired counts of every kind of cell that the rule looks at, for many experiments at once."""

    bridge: Cells
    steered: Cells
    unsteered: Cells
    prompted: Cells
    prompted_steered: Cells
    isotropic: Cells
    baseline: Cells
    true_bridge: _Latent
    """Ranks the true bridge rates."""
    true_steered: _Latent
    """Ranks the true steered rates."""


def simulate(
    design: Design,
    model: RateModel,
    rho: float,
    simulations: int,
    rng: np.random.Generator,
    *,
    among: bool = False,
) -> SimulatedTables:
    """Draw rate tables of whole experiments.

    Args:
        design: Sizes.
        model: Rates, clusters and floor.
        rho: True Spearman correlation of steered and bridge rate over all personas.
        simulations: Number of experiments.
        rng: Source of everything random.
        among: `rho` is the correlation among the personas of each experiment, not over all.
    """
    shape = (design.personas, simulations)
    bridge, steered = _propensities(shape, rho, rng, among=among)
    clusters = (design.personas, design.questions, simulations)
    common = model.question_spread * rng.standard_normal(clusters[1:])
    common = common + model.cluster_spread * np.sqrt(model.shared) * rng.standard_normal(clusters)
    own_spread = model.cluster_spread * np.sqrt(1 - model.shared)

    def draw(margin: Margin, propensity: _Latent, gain: float = 0.0) -> Cells:
        rate = logit(margin.median) + gain + margin.spread * propensity
        effects = common + own_spread * rng.standard_normal(clusters)
        chance = logistic(rate[:, None] + effects)
        chance = np.where(logistic(rate)[:, None] < model.floor, 0.0, chance)
        return rng.binomial(design.samples, chance).astype(float)

    true_bridge = logistic(logit(model.bridge.median) + model.bridge.spread * bridge)
    true_steered = logistic(logit(model.steered.median) + model.steered.spread * steered)
    return SimulatedTables(
        bridge=draw(model.bridge, bridge),
        steered=draw(model.steered, steered),
        unsteered=draw(model.unsteered, rng.standard_normal(shape)),
        prompted=draw(model.prompted, steered),
        prompted_steered=draw(model.prompted, steered, model.prompt_gain),
        isotropic=draw(model.isotropic, rng.standard_normal(shape)),
        baseline=draw(model.baseline, rng.standard_normal(shape)),
        true_bridge=np.where(true_bridge < model.floor, 0.0, true_bridge),
        true_steered=np.where(true_steered < model.floor, 0.0, true_steered),
    )


def _propensities(
    shape: tuple[int, int], rho: float, rng: np.random.Generator, *, among: bool
) -> tuple[_Latent, _Latent]:
    """How apt the personas are to fire when prompted and when steered, correlated as asked."""
    bridge = rng.standard_normal(shape)
    latent = pearson_of(rho)
    steered = latent * bridge + np.sqrt(1 - latent**2) * rng.standard_normal(shape)
    if not among:
        return bridge, steered
    bridge, steered = np.sort(bridge, axis=0), np.sort(steered, axis=0)
    order = pairings(shape[0], rho, shape[1], rng)
    return bridge, np.take_along_axis(steered, order, axis=0)


def pearson_of(spearman: float) -> float:
    """Correlation of two normal variables whose Spearman correlation is the given one.

    Pearson (1907): `rho_s = 6 / pi * arcsin(r / 2)`, solved for r.
    """
    return float(2 * np.sin(np.pi * spearman / 6))
