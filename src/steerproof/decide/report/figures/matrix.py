"""Adapters against directions: the matrix, the cosines of its directions, and the tuning curve.

Drawn from plain arrays, so that any matrix of the same personas on both sides can be shown.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.likeness import alike_beside
from steerproof.decide.report.figures.marks import square, tipped
from steerproof.decide.report.figures.palette import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    QUIET,
)
from steerproof.decide.report.figures.paper import paper_width
from steerproof.decide.report.inputs import short_name

_SIDE = 4.6
"""Width of a drawing in inches: it can be read on a phone without scrolling."""
_SQUARE = Layout(height=3.8, width=_SIDE, left=1.32, right=0.62, bottom=0.08, top=0.95, square=True)
_CELL = {"side": 0.94, "size": 7.0}
_BINS = 5
"""Points of the tuning curve's line."""
_FRAMES = "Solid frames: the adapter's own direction. Dashed frames: one it was trained to ignore."


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixValues:
    """What each adapter does under the direction of each persona."""

    personas: tuple[str, ...]
    """Of rows and columns alike."""
    values: Float[np.ndarray, "adapters directions"]
    """Firing rates, or margins in nats; NaN where not measured."""
    negatives: Bool[np.ndarray, "adapters directions"]
    """Where the adapter was trained to be silent under that direction."""
    cosines: Float[np.ndarray, "directions directions"] | None
    """Of the directions; None where they are unknown."""
    quantity: str
    """What the values are, for titles: `firing rate`, `margin (nats)`."""
    columns: str = "direction of"
    """What the columns are: `direction of`, `prompt of`."""

    @property
    def order(self) -> Int[np.ndarray, " personas"]:
        """Personas with alike directions beside each other; as given without cosines."""
        count = len(self.personas)
        if self.cosines is None or count < 3:
            return np.arange(count)
        apart = np.clip(1 - (self.cosines + self.cosines.T) / 2, 0, 2)
        np.fill_diagonal(apart, 0.0)
        return alike_beside(apart)


def matrix(given: MatrixValues, name: str = "matrix") -> Drawing:
    """The matrix as a heat map, alike directions beside each other.

    Args:
        given: The arrays.
        name: File name of the drawing.
    """
    with style():
        figure, (axes,) = panels(_SQUARE)
        _heat(axes, given)
        return drawing(
            figure,
            name,
            f"Each adapter under each {given.columns.removesuffix(' of')}: {given.quantity}",
            f"Rows are adapters, columns the {given.columns.removesuffix(' of')}s they were given; "
            f"personas with alike directions are neighbours. {_FRAMES} A dark diagonal on light "
            "ground means that each adapter answers to its own.",
        )


def matrix_cosines(given: MatrixValues) -> Drawing | None:
    """Cosines of the directions in the matrix's order; None where they are unknown."""
    if given.cosines is None:
        return None
    with style():
        figure, (axes,) = panels(_SQUARE)
        _angles(axes, given, given.cosines)
        return drawing(
            figure,
            "matrix-cosines",
            "How alike the directions are",
            "Cosines of the same directions in the same order: blue is alike, orange opposite. If "
            "the matrix beside it only repeats this picture, the adapters answer to likeness.",
        )


def tuning(given: MatrixValues, correlation: float | None = None) -> Drawing | None:
    """The response against the cosine with the adapter's own direction; None without cosines.

    Args:
        given: The arrays.
        correlation: Within adapters, over directions never seen in training; None if undefined.
    """
    if given.cosines is None:
        return None
    with style():
        figure, (axes,) = panels(Layout(height=3.1, width=_SIDE, left=0.62, right=0.1, top=0.2))
        _curve(axes, given, given.cosines)
        said = (
            "" if correlation is None else f" Rank correlation within adapters {correlation:+z.2f}."
        )
        return drawing(
            figure,
            "tuning",
            "Does the response follow the likeness?",
            "One point per adapter and direction; the line joins means of directions that were "
            f"never seen in training.{said}",
        )


def matrix_sheet(given: MatrixValues) -> Drawing | None:
    """Matrix, cosines and tuning curve on one sheet, for a paper; None without cosines."""
    if given.cosines is None:
        return None
    with style():
        layout = Layout(
            height=4.1, width=12.8, left=1.32, right=0.1, bottom=0.55, top=0.95, columns=3, gap=0.55
        )
        figure, (left, middle, right) = panels(layout, share="")
        _heat(left, given)
        _angles(middle, given, given.cosines)
        _curve(right, given, given.cosines)
        for axes, letter in zip((left, middle, right), "abc", strict=True):
            axes.set_title(letter, x=-0.12)
        return drawing(
            figure,
            "matrix-sheet",
            f"Adapters, directions and their likeness: {given.quantity}",
            f"a: each adapter under each direction. {_FRAMES} b: cosines of the directions. "
            "c: response against the cosine with the own direction.",
        )


def _heat(axes: Axes, given: MatrixValues) -> None:
    order = given.order
    top = max(float(np.nanmax(np.abs(given.values), initial=0.0)), 1.0)
    for row, adapter in enumerate(order):
        for column, other in enumerate(order):
            value = float(given.values[adapter, other])
            names = (short_name(given.personas[adapter]), short_name(given.personas[other]))
            words = f"adapter {names[0]}, {given.columns} {names[1]}"
            text = _short(value) if top == 1 else f"{value:z.1f}"
            texts = (text, f"{words}: {value:z.2f}")
            square(axes, (row, column), (value, value / top), texts, **_CELL)
            if adapter == other:
                _frame(axes, (row, column), INK, "-")
            elif given.negatives[adapter, other]:
                _frame(axes, (row, column), ORANGE, (0, (2, 1.4)))
    _names(axes, given, f"{given.columns} →", "adapter of ↓")


def _short(rate: float) -> str:
    """`.07`, `1`: a rate in as little room as possible."""
    text = f"{rate:.2f}".removeprefix("0")
    return "1" if text == "1.00" else "0" if text == ".00" else text


def _angles(axes: Axes, given: MatrixValues, cosines: Float[np.ndarray, "a b"]) -> None:
    order = given.order
    for row, a in enumerate(order):
        for column, b in enumerate(order):
            value = float(cosines[a, b])
            words = f"{short_name(given.personas[a])}, {short_name(given.personas[b])}"
            text = "1" if a == b else f"{value:+z.1f}".replace("0.", ".").replace("-", "−")
            text = "0" if text in ("+.0", "−.0") else text
            texts = (text, f"{words}: cosine {value:+z.2f}")
            square(axes, (row, column), (value, value), texts, **_CELL)
    _names(axes, given, f"{given.columns} →", f"{given.columns} ↓")


def _frame(axes: Axes, at: tuple[int, int], colour: str, dashes: Any) -> None:
    axes.add_patch(
        Rectangle(
            (at[1] - 0.45, at[0] - 0.45),
            0.9,
            0.9,
            fill=False,
            edgecolor=colour,
            linewidth=1.4,
            linestyle=dashes,
            zorder=3,
        )
    )


def _names(axes: Axes, given: MatrixValues, across: str, down: str) -> None:
    count = len(given.personas)
    names = [short_name(given.personas[i]) for i in given.order]
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xticks(range(count), names, rotation=40, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(count), names)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=7.5, pad=1)
    corner = f"{across}\n{down}"
    axes.text(-0.6, -0.62, corner, ha="right", va="bottom", fontsize=7.5, color=QUIET)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _curve(axes: Axes, given: MatrixValues, cosines: Float[np.ndarray, "a b"]) -> None:
    own = np.eye(len(given.personas), dtype=bool)
    known = ~np.isnan(given.values)
    held = known & ~own & ~given.negatives
    classes = (
        ("never seen", held, "o", BLUE),
        ("trained to ignore", known & given.negatives, "x", ORANGE),
        ("own", known & own, "D", GREEN),
    )
    for label, chosen, marker, colour in classes:
        if chosen.any():
            at = cosines[chosen], given.values[chosen]
            axes.scatter(*at, s=16, label=label, marker=marker, color=colour, alpha=0.6)
    if held.any():
        x, y = cosines[held], given.values[held]
        parts = [p for p in np.array_split(np.argsort(x, kind="stable"), _BINS) if len(p)]
        axes.plot(
            [x[p].mean() for p in parts],
            [y[p].mean() for p in parts],
            color=INK,
            gid=tipped("means of directions never seen"),
        )
    axes.set_xlim(float(cosines[known].min()) - 0.08, 1.08)
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
    axes.set_xlabel("cosine with the adapter's own direction")
    axes.set_ylabel(given.quantity)
    # In a column there may be points in that corner; a page's figure stays where it was.
    axes.legend(loc="upper left" if paper_width() is None else "best")
