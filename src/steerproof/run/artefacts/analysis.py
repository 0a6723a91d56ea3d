"""An analysis unit: the whole analysis, and the gates that the directions had to pass."""

from collections.abc import Mapping
from dataclasses import dataclass

from steerproof.codec import json_bytes, read_record
from steerproof.decide.analysis.calibration import LayerGate
from steerproof.decide.analysis.records import Analysis, to_json
from steerproof.run.store.manifest import StoredUnit

FILE, GATES = "analysis.json", "gates.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisResult:
    """What an analysis unit holds."""

    analysis: Analysis
    gates: tuple[LayerGate, ...]
    """One a layer."""


def to_files(result: AnalysisResult) -> Mapping[str, bytes]:
    """The unit's files."""
    return {FILE: json_bytes(to_json(result.analysis)), GATES: json_bytes(result.gates)}


def from_unit(unit: StoredUnit) -> AnalysisResult:
    """The analysis and its gates.

    Raises:
        IntegrityError: A file is not what its manifest says.
    """
    gates = read_record(tuple[LayerGate, ...], unit.read(GATES), f"{unit.directory / GATES}")
    analysis = read_record(Analysis, unit.read(FILE), f"{unit.directory / FILE}")
    return AnalysisResult(analysis=analysis, gates=gates)
