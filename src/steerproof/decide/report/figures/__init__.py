"""The figures of a report, as SVG: one function per figure, plain values in, a drawing out."""

from steerproof.decide.report.figures.canvas import Drawing
from steerproof.decide.report.figures.controls import control_arms, pushes
from steerproof.decide.report.figures.estimates import bootstrap, estimates
from steerproof.decide.report.figures.fluency import fluency
from steerproof.decide.report.figures.geometry import cosines, reference
from steerproof.decide.report.figures.learning import achieved, losses
from steerproof.decide.report.figures.ranking import ranking
from steerproof.decide.report.figures.strengths import strengths
from steerproof.decide.report.inputs import ReportInputs

__all__ = ["Drawing", "draw_all"]


def draw_all(inputs: ReportInputs) -> dict[str, Drawing]:
    """Every figure that the inputs allow, by name, in the order of the report."""
    asked = inputs.experiment.analysis
    drawings = [
        ranking(inputs, asked.primary_strength, "ranking"),
        ranking(inputs, asked.co_primary_strength, "ranking-co-primary")
        if asked.co_primary_strength is not None
        else None,
        estimates(inputs),
        bootstrap(inputs),
        strengths(inputs),
        control_arms(inputs),
        pushes(inputs),
        fluency(inputs),
        cosines(inputs),
        reference(inputs),
        losses(inputs),
        achieved(inputs),
    ]
    return {found.name: found for found in drawings if found is not None}
