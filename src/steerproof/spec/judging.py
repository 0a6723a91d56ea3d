"""How a run is judged: the registered rule and its kills, gates, and the answers beside them."""

from typing import Annotated, Literal

from pydantic import Field

from steerproof.spec.record import Name, Positive, Record, Resamples, Share
from steerproof.spec.strength import Strength


class Thresholds(Record):
    """The numbers of the rule and of the kills."""

    rho: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.6
    """An arm passes at this Spearman correlation or above, with a lower bound above 0."""
    uniform_zero_rate: Share = 0.05
    """uniform_zero: every steered centroid cell at or below this rate."""
    baseline_steered: float = 0.7
    """baseline_rate_driven: rho(unsteered neutral, steered) at or above this ..."""
    baseline_bridge: float = 0.6
    """... and rho(unsteered neutral, bridge) at or above this."""
    inverted_share: Share = 0.5
    """sign_inverted: share of personas whose steered rate is below their unsteered rate."""
    no_correlation: float = 0.4
    """no_correlation: rho below this."""
    specific_rho: float = 0.1
    """direction_not_specific: rho(centroid) - rho(isotropic) below this (and equal rates)."""


class AnalysisSettings(Record):
    """The registered analysis."""

    arm: Name = "A"
    """Arm of the hypothesis."""
    baseline_arm: Name | None = "C"
    """Arm that must fail the same rule."""
    isotropic_arm: Name | None = "A-iso"
    """Control arm that must fail; none if the table has the arm's own isotropic cells."""
    contrast_arm: Name | None = "A-L10"
    """Arm at the contrast layer."""
    bridge_arm: Name = "C"
    """The prompted, unsteered rate of this arm is the reference ranking."""
    primary_strength: Strength = Strength(kind="c", number=2.0)
    """Strength of the registered test."""
    co_primary_strength: Strength | None = Strength(kind="ratio", number=0.2)
    """A pass at one of the two strengths only is called magnitude-bound."""
    negative_strength: Strength | None = Strength(kind="ratio", number=-0.2)
    """Strength of the sign check, against the co-primary."""
    load_bearing: Literal["steered_vs_baseline_arm", "steered_vs_prompted"] = (
        "steered_vs_baseline_arm"
    )
    """Which comparison carries the claim; the other is reported beside it."""
    estimand: Literal["these_personas", "personas_in_general"] | None = None
    """Whom the claim is about, if declared; the registered interval speaks of these personas."""
    iterations: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """Bootstrap iterations."""
    permutations: Resamples = 9_999
    """Monte-Carlo permutations where exact enumeration is too long."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of the percentile intervals."""
    max_undefined: Share = 0.01
    """A larger share of undefined resamples makes the result inconclusive."""
    thresholds: Thresholds = Thresholds()
    """The numbers of the rule and of the kills."""


class Gates(Record):
    """Numbers that the directions must satisfy before anything is trained."""

    neutral_cosine: Share = 0.5
    """Largest |cosine| between the neutral prompt's centred vector and any persona's."""


class AnswerSettings(Record):
    """Numbers of the answers that stand beside the registered one: gates, ranking, matrix."""

    installed: Share = 0.20
    """Installed: lower bound of the prompted arm's mean rate under its own prompt over others."""
    installed_each: Share = 0.10
    """Installed: a persona counts when its own difference is at least this ..."""
    installed_share: Share = 0.8
    """... and so large a share of the personas must count."""
    attainable: Share = 0.80
    """Attainable: least correlation that a perfect relation would show through the noise."""
    coherence_loss: Share = 0.10
    """Coherent: largest loss of coherent completions against the unsteered ones of the arm."""
    repetition: Share = 0.3
    """A completion that ended is coherent up to this share of repeated token 3-grams."""
    dose_ratio: Annotated[float, Field(ge=1.0)] = 1.25
    """Equal dose: largest push over smallest, over personas."""
    dose_rho: Share = 0.7
    """From this |rank correlation| of rate and push on, the push is said to order the rates."""
    control_cosine: Share = 0.30
    """Control: largest |cosine| of a control direction with its own centroid."""
    refuted_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Ranking: REFUTED when a true correlation at the rule's threshold is this improbable."""
    draws: Resamples = 1_000
    """Ranking: simulated tables for every true correlation tried."""
    matrix_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Matrix: largest permutation p of an adapter that reads its own direction."""
    least_rate: Share = 0.10
    """Matrix: a smaller difference of rates does not matter."""
    least_nats: Annotated[float, Field(gt=0.0)] = 1.0
    """Matrix: the same of margins, in nats."""
    subspace_rate: Share = 0.05
    """Matrix: held-out centroids over random directions by this read the persona subspace."""
    prompt_nats: Annotated[float, Field(gt=0.0)] = 3.0
    """Matrix: the prompt's selectivity must exceed this for a fraction of it to be given."""
    seed_agreement: Share = 0.5
    """Seeds: intraclass correlation from which on a ranking is one of personas."""
    seeds: Positive = 3
    """Seeds: fewest trainings of each adapter to speak of personas."""
