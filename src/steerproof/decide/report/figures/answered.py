"""The matrix of the answers as arrays for its figures."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.answer_records import MatrixResult
from steerproof.decide.report.figures.canvas import Drawing
from steerproof.decide.report.figures.matrix import (
    MatrixValues,
    matrix,
    matrix_cosines,
    matrix_sheet,
    tuning,
)
from steerproof.decide.report.inputs import ReportInputs


def answered(inputs: ReportInputs) -> dict[str, Drawing]:
    """The figures of the tested arm's matrix; none where it was not measured."""
    result = inputs.answers.direction.tested
    if result is None or not result.values:
        return {}
    given = matrix_values(inputs, result)
    drawn = (
        matrix(given),
        matrix_cosines(given),
        tuning(given, result.tuning),
        matrix_sheet(given),
    )
    return {figure.name: figure for figure in drawn if figure is not None}


def matrix_values(inputs: ReportInputs, result: MatrixResult) -> MatrixValues:
    """A matrix with the cosines of its directions, as far as they are known."""
    names = tuple(result.values)
    values = [[result.values[row].get(column) for column in names] for row in names]
    return MatrixValues(
        personas=names,
        values=np.array(values, dtype=float),
        negatives=np.array(
            [[column in result.negatives.get(row, ()) for column in names] for row in names]
        ),
        cosines=_cosines(inputs, result, names),
        quantity="firing rate" if result.scale == "rate" else "margin (nats)",
        columns="prompt of" if result.columns == "prompt" else "direction of",
    )


def _cosines(
    inputs: ReportInputs, result: MatrixResult, names: tuple[str, ...]
) -> Float[np.ndarray, "a b"] | None:
    layer = inputs.experiment.layer(inputs.experiment.arm(result.arm).layer)
    measured = inputs.calibration.get(layer)
    if measured is None or result.columns == "prompt":
        return None
    table: Mapping[str, Mapping[str, float | None]] = measured.cosines
    if result.columns != "centroid":
        if result.columns not in measured.controls:
            return None
        table = measured.controls[result.columns].each_other
    known = np.array([[table[a][b] for b in names] for a in names], dtype=float)
    return None if np.isnan(known).any() else known
