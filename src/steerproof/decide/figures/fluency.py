"""Where text falls apart: fluency against the size of the push."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from steerproof.decide.figures.canvas import Drawing, drawing, sheet, style
from steerproof.decide.figures.marks import say_empty
from steerproof.decide.figures.palette import FAINT, QUIET
from steerproof.decide.figures.strengths import Look, looks
from steerproof.decide.report_inputs import Fluency, ReportInputs
from steerproof.spec.experiment import parse_strength

CLIFF = 0.6
"""Ratio above which the published run lost the marker and much of its fluency."""

SPREAD = 0.02
"""Marks at the same ratio are moved sideways by up to this much."""

_MEASURES: tuple[tuple[str, str, Callable[[Fluency], float | None]], ...] = (
    ("Repetition", "repeated 3-grams (share)", lambda row: row.repetition),
    ("Token limit reached", "completions (share)", lambda row: row.length_share),
    ("Length", "mean length (tokens)", lambda row: row.tokens),
    ("Surprise of the base model", "mean loss (nats per token)", lambda row: row.nats),
)


def fluency(inputs: ReportInputs) -> Drawing | None:
    """Repetition, cut completions, length and base-model loss against the ratio."""
    rows = [row for row in inputs.fluency if row.ratio is not None]
    if not rows:
        return None
    measures = [m for m in _MEASURES if any(m[2](row) is not None for row in rows)]
    missing = tuple(
        f"{title}: not measured"
        for title, _, read in _MEASURES
        if all(read(r) is None for r in rows)
    )
    unknown = len(inputs.fluency) - len(rows)
    if unknown:
        missing += (f"{unknown} cells: ratio unknown, so not drawn",)
    labels = sorted({row.cell.strength for row in rows}, key=lambda s: (parse_strength(s)[1], s))
    with style():
        columns = 2 if len(measures) in (2, 4) else 3
        lines = -(-len(measures) // columns)
        height = 0.5 + 2.55 * lines
        figure = sheet(height)
        grid = figure.subplots(
            lines,
            columns,
            squeeze=False,
            sharex=True,
            gridspec_kw={
                "left": 0.085,
                "right": 0.985,
                "bottom": 0.48 / height,
                "top": 1 - 0.62 / height,
                "wspace": 0.3,
                "hspace": 0.5,
            },
        )
        look = looks(labels)
        for axes, (title, label, read) in zip(grid.flat, measures, strict=False):
            _panel(axes, rows, read, look)
            axes.set_title(title)
            axes.set_ylabel(label)
            axes.set_xlabel("signed ratio ‖c·v‖ / h̄ (dimensionless)")
        for axes in grid.flat[len(measures) :]:
            axes.set_axis_off()
        handles = [mark.handle("unsteered" if s == "none" else s) for s, mark in look.items()]
        figure.legend(
            handles=handles,
            loc="upper left",
            ncols=len(handles),
            bbox_to_anchor=(0.075, 1.0),
            columnspacing=1.6,
        )
        return drawing(
            figure,
            "fluency",
            "Fluency against the size of the push",
            "One mark per cell, all arms; marks are spread sideways by up to "
            f"{SPREAD:g} so that they can be told apart. In the shaded region, beyond a ratio of "
            f"{CLIFF:g}, the published inference-time run lost the marker and much of its fluency: "
            "a low firing rate there says nothing about the direction.",
            missing,
        )


def _panel(
    axes: Axes,
    rows: Sequence[Fluency],
    read: Callable[[Fluency], float | None],
    look: dict[str, Look],
) -> None:
    values = [(row, row.ratio, read(row)) for row in rows]
    known = [
        (row, ratio, value)
        for row, ratio, value in values
        if ratio is not None and value is not None
    ]
    if not known:
        say_empty(axes)
        return
    low, high = min(r for _, r, _ in known), max(r for _, r, _ in known)
    left, right = min(low, 0) - 0.06, max(high, CLIFF + 0.1) + 0.06
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
    for strength, mark in look.items():
        points = [(ratio, value) for row, ratio, value in known if row.cell.strength == strength]
        if points:
            ratios, values = zip(*points, strict=True)
            shifts = SPREAD * np.sin(np.arange(len(points)) * 2.4)
            axes.plot(
                ratios + shifts,
                values,
                mark.marker,
                markersize=4,
                alpha=0.75,
                markerfacecolor=mark.fill,
                markeredgecolor=mark.edge,
                markeredgewidth=0.9,
            )
    axes.set_xlim(left, right)
    top = max(v for _, _, v in known) or 1.0
    axes.set_ylim(-0.04 * top, 1.08 * top)
    axes.tick_params(length=3, labelbottom=True)
