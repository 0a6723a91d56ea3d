"""The three answers as frozen records: as registered, ranking, direction and prompt.

None means undefined or not measured; a reason always says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from steerproof.decide.analysis.gates import Gate
from steerproof.decide.analysis.rule import Verdict

Pair = tuple[float, float]
Scale = Literal["rate", "margin"]
"""What is compared: firing rates, or margins in nats."""


class Ranking(StrEnum):
    """What is said of the ranking."""

    CANNOT_ANSWER = "CANNOT ANSWER"
    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


class Reads(StrEnum):
    """What the adapters answer to when they are pushed."""

    OWN = "reads its own direction"
    SUBSPACE = "reads the persona subspace"
    NEGATIVES = "has learnt only what to be silent at"
    ANY = "reads any push"
    NONE = "reads no push"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


class Carries(StrEnum):
    """Whether the prompt itself writes what the adapters read."""

    YES = "carries to the prompt"
    BOTH = "carries to the prompt, and so does a random direction"
    NO = "does not carry to the prompt"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over personas with its bounds, Student's t."""

    value: float
    interval: Pair
    """Two-sided, 95%."""
    lower: float
    """One-sided 95%."""
    upper: float
    """One-sided 95%."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixResult:
    """One matrix: adapters of one arm against the personas' directions, or their prompts."""

    arm: str
    columns: str
    """What the columns are: directions of a kind, or `prompt`, system prompts without a push."""
    strength: str
    """How hard every cell pushes; `none` for prompts."""
    scale: Scale
    trained_label: bool
    """Columns are named by the adapter that was trained with them, in a shuffled arm."""
    values: Mapping[str, Mapping[str, float | None]]
    """By adapter, then by the persona of the column; None where a cell is missing."""
    negatives: Mapping[str, tuple[str, ...]]
    """Personas that each adapter was trained to be silent at; an own class, never pooled."""
    own: float | None
    """Mean over adapters under their own direction."""
    trained_negatives: float | None
    """Mean under trained negatives; None where there are none."""
    held_out: float | None
    """Mean under those that the adapter never saw."""
    s: Estimate | None
    """S: own minus held out, with the jackknife over personas; None if `reason` says so."""
    p: float | None
    """Restricted permutation p that the direction is the adapter's own."""
    permutations: int
    """Orders compared with."""
    own_first: int | None
    """Adapters whose own is at or above every held-out one, and above their mean."""
    tuning: float | None
    """Within adapters, over held-out columns: rank correlation with the cosine to the own one."""
    tuning_discriminant: float | None
    """The same with the cosine less that of the nearest trained negative."""
    reason: str | None
    """Why a number is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A difference of two class means over adapters."""

    name: str
    """`own - unsteered`, `random - unsteered`, `held out - random`, `held out - negatives`."""
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomDraws:
    """The own direction among fresh random ones."""

    draws: int
    """Random directions of each adapter."""
    p: float
    """Mean over adapters of the rank p `(r + 1) / (m + 1)`."""
    first: int
    """Adapters whose own direction is above every random one."""
    mean: float
    """Mean rate under the random directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRates:
    """The untrained model under every push and prompt that it was measured with."""

    fired: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignCounts:
    """The tested arm against, without and along its own direction: mean rates."""

    against: float
    unsteered: float
    along: float
    ordered: int
    """Personas whose rates rise in that order."""
    personas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingAnswer:
    """May the steered ranking be compared with the bridge, and what does it say then?"""

    answer: Ranking
    reason: str
    """In one sentence, with its numbers."""
    strength: str
    """The strength that decides."""
    moved: str | None
    """Why another than the primary strength decides; None where the primary does."""
    gates: tuple[Gate, ...]
    """At the deciding strength."""
    primary_gates: tuple[Gate, ...]
    """At the primary strength; the same ones where it decides."""
    rho: float | None
    """Observed Spearman correlation at the deciding strength."""
    interval: Pair | None
    """True correlations that the data do not exclude, noise counted on both sides."""
    p_threshold: float | None
    """Probability of so low a correlation if the true one were at the rule's threshold."""
    threshold: float
    """That threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedRanking:
    """Bridge and steered cells compared by their margins, beside the rates; it decides nothing."""

    text: Literal["common", "own"]
    """At whose end the margins were read: common answers, or each cell's own completions."""
    strength: str
    questions: tuple[int, int]
    """On which every persona has a margin: in the bridge, in the steered cells."""
    alpha_bridge: float | None = None
    alpha_steered: float | None = None
    attainable: float | None = None
    """Correlation that margins as noisy as these show when the true orders are one."""
    rho: float | None = None
    interval: Pair | None = None
    """True correlations that the data do not exclude; None also where none is left."""
    p_threshold: float | None = None
    """Probability of so low a correlation if the true one were at the rule's threshold."""
    reason: str | None = None
    """Why there are no numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confound:
    """What else could order the personas, and the correlation that is left with it held fixed."""

    names: tuple[str, ...]
    """What is held fixed: one, or all of them together."""
    strength: str
    least: float | None
    """Smallest value over personas; None of several together, as the four below."""
    most: float | None
    with_steered: float | None
    """Spearman correlation of the steered rates with it."""
    with_bridge: float | None
    rho: float | None
    """Spearman correlation of steered rates and bridge, nothing held fixed."""
    partial: float | None
    """The same with it held fixed."""
    needed: float | None
    """Size that a partial correlation must have for p = 0.05 with so many personas."""
    reason: str | None
    """Why there is no partial correlation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPush:
    """A push at some tokens only, or a removal, beside the cell that differs in that alone."""

    arm: str
    kind: str
    """The kind of cell in words."""
    against: str
    """What it is compared with: the push at all tokens; for a removal, no push."""
    rate: float | None
    """Mean over headline personas."""
    usual: float | None
    """The same of what it is compared with."""
    difference: Estimate | None
    """Rate less usual, over personas."""
    reason: str | None
    """Why there is no difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """What one training seed shows by itself."""

    seed: int
    rho: float | None
    """Registered correlation at the primary strength."""
    s: float | None
    """S of the tested arm's matrix."""
    p: float | None
    reads: Reads


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedAnswer:
    """Agreement of the training seeds."""

    results: tuple[SeedResult, ...] = ()
    """Of every seed, the experiment's own first; empty where there is one."""
    subject: str
    """`these personas` or `these adapters`: of whom the ranking speaks."""
    single: float | None = None
    """Intraclass correlation of one seed's bridge; None with one seed."""
    mean: float | None = None
    """The same of the mean over seeds."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionAnswer:
    """What the adapters read, and whether the prompt writes it."""

    reads: Reads
    carries: Carries
    supports: bool | None
    """The matrix bears a SUPPORTED of the title's question; None where it was not measured."""
    tested: MatrixResult | None
    """The tested arm under its own kind of direction."""
    matrices: tuple[MatrixResult, ...]
    """Every matrix that was measured, the tested one included."""
    contrasts: tuple[Contrast, ...]
    """Differences of the classes, of the tested arm."""
    draws: RandomDraws | None
    base: BaseRates | None
    signs: SignCounts | None
    fraction: Estimate | None
    """S of the direction over S of the prompt, in the arm trained on prompts, in nats."""
    fraction_reason: str | None
    """Why there is no fraction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisedKill:
    """A kill with error control, beside the registered one of the same name."""

    name: str
    fired: bool | None
    reason: str
    """With its numbers."""
    numbers: Mapping[str, float | int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreeAnswers:
    """As registered, ranking, direction and prompt, in records and in words."""

    registered: Verdict
    ranking: RankingAnswer
    direction: DirectionAnswer
    seeds: SeedAnswer
    gates: tuple[Gate, ...]
    """Warnings on the directions: neutral prompt and controls."""
    kills: tuple[RevisedKill, ...]
    """The second versions of `sign_inverted` and `direction_not_specific`."""
    graded: tuple[GradedRanking, ...] = ()
    """The ranking on margins, beside the one on rates; empty where none were measured."""
    confounds: tuple[Confound, ...] = ()
    """The ranking with prompt length and the norm of the direction held fixed."""
    pushes: tuple[OtherPush, ...] = ()
    """Where the direction acts and whether it is needed; empty where nothing was asked for."""
    reading: str = ""
    """What all of it means for the question of the title."""
    lines: tuple[str, ...] = ()
    """The three answers in words, in order; whole sentences."""
