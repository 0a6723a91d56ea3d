"""`results/verdict.json`: analysis, answers, gates, and the hash of what was registered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerproof.codec import plain, read_record
from steerproof.decide.analysis.answer_records import ThreeAnswers
from steerproof.decide.analysis.calibration import LayerGate
from steerproof.decide.analysis.records import Analysis
from steerproof.errors import IntegrityError
from steerproof.run.artefacts.analysis import AnalysisResult

FILE = "verdict.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunVerdict:
    """What a run concluded."""

    analysis: Analysis
    answers: ThreeAnswers
    gates: tuple[LayerGate, ...]
    """One a layer."""
    lock: str
    """sha256 of the registration that it answers to."""
    exploratory: str | None = None
    """Why it confirms nothing, as the experiment says; None of one that was meant to confirm."""

    def record(self) -> Mapping[str, Any]:
        """As verdict.json holds it: the fields of the analysis, then the others."""
        return {
            **plain(self.analysis),
            "answers": plain(self.answers),
            "gates": plain(self.gates),
            "lock": self.lock,
            **({} if self.exploratory is None else {"exploratory": self.exploratory}),
        }


def verdict_of(result: AnalysisResult, lock: str, exploratory: str | None = None) -> RunVerdict:
    """What an analysis unit says, under a registration."""
    return RunVerdict(
        analysis=result.analysis,
        answers=result.answers,
        gates=result.gates,
        lock=lock,
        exploratory=exploratory,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingHead:
    """What is said of the ranking, as one word of `Ranking`."""

    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionHead:
    """What the adapters read and whether a prompt writes it: words of `Reads` and `Carries`."""

    reads: str = ""
    carries: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersHead:
    """The three answers in words."""

    lines: tuple[str, ...] = ()
    ranking: RankingHead = RankingHead()
    direction: DirectionHead = DirectionHead()


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthHead:
    """Registered correlation of one arm at one strength."""

    strength: str = ""
    rho: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmHead:
    """One arm at the registered strengths."""

    primary: StrengthHead | None = None
    co_primary: StrengthHead | None = None

    def at(self, strength: str) -> StrengthHead | None:
        """The correlation at a strength; None where it was not judged there."""
        judged = (one for one in (self.primary, self.co_primary) if one is not None)
        return next((one for one in judged if one.strength == strength), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictHead:
    """The words of a verdict."""

    verdict: str
    arm: str = ""
    reason: str = ""
    reading: str = ""
    answers: AnswersHead = AnswersHead()
    arms: Mapping[str, ArmHead] = field(default_factory=dict)
    confidence: float | None = None
    """Level of the intervals."""

    @property
    def tested(self) -> StrengthHead:
        """The tested arm at the primary strength."""
        return self.arms.get(self.arm, ArmHead()).primary or StrengthHead()


def read_head(run: Path) -> VerdictHead | None:
    """The words of a published verdict; None while there is none.

    Raises:
        IntegrityError: The file is no verdict.
    """
    path = run / "results" / FILE
    if not path.is_file():
        return None
    try:
        return read_record(VerdictHead, path.read_bytes(), str(path))
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
