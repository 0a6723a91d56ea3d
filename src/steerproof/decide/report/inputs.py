"""Everything that a report shows, as plain frozen values.

The report reads no files and asks no model: whoever calls it gathers these, and the same inputs
give the same bytes. What was not measured is None, and a report says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steerproof.decide.analysis.answer_records import ThreeAnswers
from steerproof.decide.analysis.calibration import Calibration
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.analysis.records import Analysis
from steerproof.decide.review.evidence import Objection
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell
from steerproof.spec.lock import Deviation, Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """How the training of one adapter went."""

    arm: str
    persona: str
    losses: tuple[float, ...]
    """Mean loss per step, in nats per completion token."""
    asked: float | None = None
    """Ratio that the arm asks for; None without a direction."""
    achieved: float | None = None
    """Mean norm of the push that arrived over `h_bar`, the ratio's own scale; None without a
    direction."""
    token_ratio: float | None = None
    """Mean `||delta|| / ||h||`, each token's own residual; None without a direction."""
    firings: int | None = None
    """How often the hook added the direction; None without a direction."""
    seconds: float | None = None
    """Wall time; None for an adapter that was loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSample:
    """One completion to show. Its text is hostile until escaped."""

    cell: Cell
    question: str
    text: str
    fired: bool
    finish: str
    """`eos` or `length`."""
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fluency:
    """What the completions of one cell read like, marker aside."""

    cell: Cell
    ratio: float | None
    """Signed `c ||v|| / h_bar` of the cell; 0 unsteered, None if unknown."""
    repetition: float | None
    """Mean share of token 3-grams that occurred before in the completion."""
    length_share: float | None
    """Share of completions that reached the token limit."""
    tokens: float | None
    """Mean length in tokens."""
    push: str = "none"
    """Of a fixed text, whether it showed the cell's push: `none` was asked for, `verified`, or
    `too small to verify here`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the run took."""

    units: int
    """Units of work in the run."""
    seconds: float | None
    """Seconds of work, over all sessions; None if unknown."""
    machine: str
    """Machine in words: processor, cores, accelerator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """What the units of a run tell besides its rates."""

    training: Sequence[TrainingSummary] = ()
    completions: Sequence[ReportSample] = ()
    fluency: Sequence[Fluency] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why a cell that was asked for has no rates, by its name, as far as it is known."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why the record of an adapter's training could not be read, by its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRegistration:
    """What the results answer to."""

    lock: Lock | None = None
    """None of what was never registered."""
    deviations: Sequence[Deviation] = ()
    analysis: Analysis | None = None
    """Under the locked experiment, where a deviation changed the analysis alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run was made from and took, to make it again."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of every package, of the code and of the model."""
    seeds: Mapping[str, int | str] = field(default_factory=dict)
    """Root seed and what is derived from it."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """sha256 of what went in and came out, by name."""
    facts: RunFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """Everything that a report shows."""

    experiment: Experiment
    rates: RateTable
    analysis: Analysis
    answers: ThreeAnswers
    """As registered, ranking, direction and prompt."""
    calibration: Calibration = field(default_factory=dict)
    """By layer; empty if there is none."""
    detail: RunDetail = RunDetail()
    objections: Sequence[Objection] = ()
    registration: ReportRegistration = ReportRegistration()
    origin: Origin = Origin()


def short_name(persona: str) -> str:
    """A persona's name as words."""
    return persona.replace("_", " ")
