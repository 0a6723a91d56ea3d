"""Where text falls apart: fluency against the size of the push."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from steerproof.decide.analysis.calibration import CLIFF
from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.palette import FAINT, QUIET
from steerproof.decide.report.figures.paper import stands_for
from steerproof.decide.report.figures.strengths import Look, looks, pull_to_push, strength_key
from steerproof.decide.report.inputs import Fluency, ReportInputs
from steerproof.spec.strength import Strength

_ALIKE = 0.005
"""A measure that differs by less between all cells is told in words."""
_SPREAD = 0.02
"""Marks at the same ratio are moved sideways by up to this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    """One way in which a broken text shows."""

    title: str
    label: str
    """Axis, with its unit."""
    read: Callable[[Fluency], float | None]


_MEASURES = (
    _Measure(title="Repetition", label="repeated 3-grams (share)", read=lambda row: row.repetition),
    _Measure(
        title="Token limit", label="cut completions (share)", read=lambda row: row.length_share
    ),
    _Measure(title="Length", label="mean length (tokens)", read=lambda row: row.tokens),
)


def fluency(inputs: ReportInputs) -> Drawing | str | None:
    """Repetition, cut completions and length against the ratio."""
    rows = [row for row in inputs.detail.fluency if row.ratio is not None]
    if not rows:
        return None
    told = {measure: _told(measure, rows) for measure in _MEASURES}
    measures = [measure for measure, words in told.items() if words is None]
    missing = tuple(f"{m.title}: {words}" for m, words in told.items() if words is not None)
    if not measures:
        return f"Fluency: {'; '.join(missing)}."
    unknown = len(inputs.detail.fluency) - len(rows)
    if unknown:
        missing += (f"{unknown} cells: ratio unknown, so not drawn",)
    strengths = sorted({row.cell.strength for row in rows}, key=pull_to_push)
    with style():
        columns = 2 if len(measures) in (2, 4) else 3
        lines = -(-len(measures) // columns)
        layout = Layout(
            height=0.5 + 2.55 * lines, bottom=0.48, top=0.62, columns=columns, rows=lines, gap=0.3
        )
        figure, grid = panels(layout, share="x")
        look = looks(strengths)
        for axes, measure in zip(grid, measures, strict=False):
            _panel(axes, rows, measure, look)
        for axes in grid[len(measures) :]:
            axes.set_axis_off()
        strength_key(figure, look, 0.65)
        return drawing(
            figure,
            "fluency",
            "Fluency against the size of the push",
            "One mark per cell, all arms; marks are spread sideways by up to "
            f"{_SPREAD:g} so that they can be told apart. In the shaded region, beyond a ratio of "
            f"{CLIFF:g}, the published inference-time run lost the marker and much of its fluency: "
            "a low firing rate there says nothing about the direction.",
            missing,
        )


def _told(measure: _Measure, rows: Sequence[Fluency]) -> str | None:
    """Why a measure gets no panel: not measured, or the same in every cell."""
    known = [value for row in rows if (value := measure.read(row)) is not None]
    if not known:
        return "not measured"
    alike = max(known) - min(known) < _ALIKE
    return f"between {min(known):.3g} and {max(known):.3g} in every cell" if alike else None


def _panel(
    axes: Axes, rows: Sequence[Fluency], measure: _Measure, look: Mapping[Strength, Look]
) -> None:
    values = [(row.cell.strength, row.ratio, measure.read(row)) for row in rows]
    known = [(s, r, v) for s, r, v in values if r is not None and v is not None]
    reach = [ratio for _, ratio, _ in known]
    left, right = min(*reach, 0.0) - 0.06, max(*reach, CLIFF + 0.1) + 0.06
    top = max(value for _, _, value in known) or 1.0
    for strength, mark in look.items():
        ratios = np.array([ratio for asked, ratio, _ in known if asked == strength])
        heights = [value for asked, _, value in known if asked == strength]
        shifts = _SPREAD * np.sin(np.arange(len(ratios)) * 2.4)
        (line,) = axes.plot(
            ratios + shifts, heights, mark.marker, markersize=4, alpha=0.75, **mark.paint()
        )
        line.set_label(str(strength))
        stands_for(line, ratios)
    _cliff(axes, left, right)
    axes.set_xlim(left, right)
    axes.set_ylim(-0.04 * top, 1.08 * top)
    axes.set_title(measure.title)
    axes.set_ylabel(measure.label)
    axes.set_xlabel("push over the usual norm, ‖c·v‖ / h̄")
    axes.tick_params(length=3, labelbottom=True)


def _cliff(axes: Axes, left: float, right: float) -> None:
    """Shade what lies beyond the published cliff, on both sides."""
    axes.axvspan(CLIFF, right, color=FAINT, alpha=0.22, linewidth=0)
    if left < -CLIFF:
        axes.axvspan(left, -CLIFF, color=FAINT, alpha=0.22, linewidth=0)
    axes.annotate(
        "cliff",
        (CLIFF, 1),
        (4, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=7.5,
        color=QUIET,
    )
