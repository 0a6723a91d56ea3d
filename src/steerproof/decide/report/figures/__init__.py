"""The figures of a report, as SVG: one function per figure, plain values in, a drawing out."""

from collections.abc import Callable

from steerproof.decide.report.figures.answered import answered
from steerproof.decide.report.figures.canvas import Drawing
from steerproof.decide.report.figures.controls import control_arms, pushes
from steerproof.decide.report.figures.dose import dose
from steerproof.decide.report.figures.estimates import bootstrap, estimates
from steerproof.decide.report.figures.fluency import fluency
from steerproof.decide.report.figures.geometry import cosines, reference
from steerproof.decide.report.figures.learning import achieved, losses
from steerproof.decide.report.figures.ranking import ranking
from steerproof.decide.report.figures.strengths import strengths
from steerproof.decide.report.inputs import ReportInputs

__all__ = ["Drawing", "Shown", "draw_all"]

Shown = Drawing | str
"""A drawing, or the sentence that says all that it would show."""


def _primary(inputs: ReportInputs) -> Shown:
    return ranking(inputs, inputs.experiment.analysis.primary_strength, "ranking")


def _co_primary(inputs: ReportInputs) -> Shown | None:
    strength = inputs.experiment.analysis.co_primary_strength
    return None if strength is None else ranking(inputs, strength, "ranking-co-primary")


_FIGURES: dict[str, Callable[[ReportInputs], Shown | None]] = {
    "dose": dose,
    "ranking": _primary,
    "ranking-co-primary": _co_primary,
    "estimates": estimates,
    "bootstrap": bootstrap,
    "strengths": strengths,
    "controls": control_arms,
    "pushes": pushes,
    "fluency": fluency,
    "cosines": cosines,
    "reference": reference,
    "losses": losses,
    "achieved": achieved,
}
"""By name, in the order of the report; None where the inputs do not allow it."""


def draw_all(inputs: ReportInputs) -> dict[str, Shown]:
    """Every figure that the inputs allow, by name, in the order of the report."""
    shown = {name: draw(inputs) for name, draw in _FIGURES.items()}
    drawn: dict[str, Shown] = dict(answered(inputs))
    return drawn | {name: figure for name, figure in shown.items() if figure is not None}
