"""What is known besides the experiment file when objections are raised."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steerproof.decide.analysis.calibration import Calibration, LayerCalibration
from steerproof.decide.analysis.rates import RateTable
from steerproof.spec.experiment import Experiment

Severity = Literal["serious", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """One reason why the experiment may not show what it claims to."""

    code: str
    severity: Severity
    finding: str
    """What is wrong, with its number."""
    remedy: str
    """What would mend it."""
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Measurements of this experiment so far; none of them is needed to object."""

    calibration: Calibration | None = None
    """What the directions units, or a trial, measured."""
    bystanders: Mapping[str, tuple[str, ...]] | None = None
    """The bystanders that were drawn for each persona."""
    bridge: Mapping[str, float] | None = None
    """Prompted, unsteered rate of each headline persona in the bridge arm."""
    table: RateTable | None = None
    """Rates so far; None before any cell is scored."""
    truncated: float | None = None
    """Share of completions so far that reached the length limit."""
    training_seeds: int = 1
    """Training seeds for which each adapter exists."""
    prompts_known: frozenset[str] = frozenset()
    """Arms whose existing adapters say that they were trained under this experiment's prompts."""

    def layer(self, index: int) -> LayerCalibration | None:
        """Calibration of a layer, if it was measured."""
        return (self.calibration or {}).get(index)


def unknown(experiment: Experiment, evidence: Evidence) -> tuple[str, ...]:
    """What cannot be objected to yet, and which unit measures it."""
    measured = evidence.layer(experiment.layers.primary) is not None
    open_points = (
        (measured, "size of each push, distance of the neutral prompt, reliability of each "
         "centroid: measured by the directions units"),
        (measured and evidence.bystanders is not None,
         "closeness of bystanders: measured by the directions and dataset units"),
        (evidence.bridge is not None,
         "floor, ceiling and ties of the bridge: measured by the bridge cells"),
        (evidence.truncated is not None,
         "share of cut completions: measured by the first cells"),
    )  # fmt: skip
    return tuple(f"not yet known: {text}" for known, text in open_points if not known)
