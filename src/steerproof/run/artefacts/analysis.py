"""An analysis unit: as registered, the three answers, and what the directions had to pass."""

from collections.abc import Mapping
from dataclasses import dataclass

from steerproof.codec import json_bytes, read_record
from steerproof.decide.analysis.answer_records import ThreeAnswers
from steerproof.decide.analysis.calibration import LayerGate
from steerproof.decide.analysis.records import Analysis
from steerproof.run.store.manifest import StoredUnit

FILE, ANSWERS, _GATES = "analysis.json", "answers.json", "gates.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisResult:
    """What an analysis unit holds."""

    analysis: Analysis
    answers: ThreeAnswers
    gates: tuple[LayerGate, ...]
    """One a layer."""


def to_files(result: AnalysisResult) -> Mapping[str, bytes]:
    """The unit's files."""
    return {
        FILE: json_bytes(result.analysis),
        ANSWERS: json_bytes(result.answers),
        _GATES: json_bytes(result.gates),
    }


def from_unit(unit: StoredUnit) -> AnalysisResult:
    """The analysis, the answers and the gates.

    Raises:
        IntegrityError: A file is not what its manifest says.
    """
    gates = read_record(tuple[LayerGate, ...], unit.read(_GATES), f"{unit.directory / _GATES}")
    analysis = read_record(Analysis, unit.read(FILE), f"{unit.directory / FILE}")
    answers = read_record(ThreeAnswers, unit.read(ANSWERS), f"{unit.directory / ANSWERS}")
    return AnalysisResult(analysis=analysis, answers=answers, gates=gates)
