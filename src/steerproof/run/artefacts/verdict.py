"""`results/verdict.json`: analysis, answers, gates, and the hash of what was registered."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerproof.codec import plain, read_record
from steerproof.decide.analysis.answer_records import ThreeAnswers
from steerproof.decide.analysis.calibration import LayerGate
from steerproof.decide.analysis.records import Analysis, to_json
from steerproof.errors import IntegrityError
from steerproof.run.artefacts.analysis import AnalysisResult

FILE = "verdict.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run concluded."""

    analysis: Analysis
    answers: ThreeAnswers | None
    """None of a run from before there were three answers."""
    gates: tuple[LayerGate, ...]
    """One a layer."""
    lock: str
    """sha256 of the registration that it answers to."""

    def record(self) -> Mapping[str, Any]:
        """As verdict.json holds it: the fields of the analysis, then the others."""
        return {
            **to_json(self.analysis),
            **({} if self.answers is None else {"answers": plain(self.answers)}),
            "gates": plain(self.gates),
            "lock": self.lock,
        }


def verdict_of(result: AnalysisResult, lock: str) -> Verdict:
    """What an analysis unit says, under a registration."""
    return Verdict(analysis=result.analysis, answers=result.answers, gates=result.gates, lock=lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLines:
    """The three answers in words."""

    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictHead:
    """The words of a verdict, whichever version wrote it."""

    verdict: str
    arm: str = ""
    reason: str = ""
    reading: str = ""
    answers: AnswerLines = AnswerLines()
    """Empty in a verdict from before there were three answers."""


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
