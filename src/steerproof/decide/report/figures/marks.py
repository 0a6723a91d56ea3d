"""Marks that several figures share: rates with intervals, numbered points, reference lines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from steerproof.decide.analysis.rates import CellCounts, RateTable, lookup
from steerproof.decide.analysis.statistics import wilson_interval
from steerproof.decide.report.figures.canvas import TIP
from steerproof.decide.report.figures.palette import FAINT, INK, QUIET, diverging
from steerproof.decide.report.figures.paper import VALUE, narrow
from steerproof.decide.report.inputs import short_name
from steerproof.spec.grid import CellKind

_NOTHING = "no measured values"
_VISIBLE = 0.1
"""Rates that differ by less than this leave a panel with all its points in a corner."""
ROLL = 1.85
"""Room for the list of numbered personas, in inches."""
_ANGLES = (45, 135, -45, -135, 0, 180, 90, -90, 22, 158, -22, -158, 67, 113, -67, -113)
_RADII = (10, 13, 17, 22, 28)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A firing rate with its Wilson interval."""

    fired: int
    total: int
    value: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """`57 of 100, 95% interval 0.47 to 0.66`."""
        return f"{self.fired} of {self.total}, interval {self.low:z.2f} to {self.high:z.2f}"


def _rate_of(counts: CellCounts, confidence: float) -> Rate:
    """The rate of one cell over all its questions."""
    return rate(sum(counts.fired), sum(counts.total), confidence)


def rate(fired: int, total: int, confidence: float) -> Rate:
    """The rate of so many completions, with its Wilson interval."""
    low, high = wilson_interval(np.array(float(fired)), np.array(float(total)), confidence)
    return Rate(fired=fired, total=total, value=fired / total, low=float(low), high=float(high))


def rates_of(
    table: RateTable, kind: CellKind, personas: Iterable[str], confidence: float
) -> dict[str, Rate]:
    """The rates of the personas that were measured."""
    measured = {persona: lookup(table, kind, persona) for persona in personas}
    return {p: _rate_of(counts, confidence) for p, counts in measured.items() if counts is not None}


def absent(kind: CellKind, personas: Iterable[str], found: Iterable[str]) -> tuple[str, ...]:
    """A sentence about the cells of a kind that are not in the table, or nothing."""
    present = set(found)
    names = [short_name(persona) for persona in personas if persona not in present]
    return (f"{kind.name}: not measured for {', '.join(names)}",) if names else ()


def rate_axis(axes: Axes, label: str, *, vertical: bool) -> None:
    """A rate from 0 to 1 on one axis."""
    ticks, names = np.linspace(0, 1, 6), ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    if vertical:
        axes.set_ylim(-0.035, 1.035)
        axes.set_yticks(ticks, names)
        axes.set_ylabel(label)
    else:
        axes.set_xlim(-0.035, 1.035)
        axes.set_xticks(ticks, names)
        axes.set_xlabel(label)
    axes.tick_params(length=3)


def flat(values: Iterable[float], of: str) -> str | None:
    """A sentence in place of a panel where nothing varies; None where there is something to see.

    Args:
        values: Of one axis.
        of: What they are, as the subject of the sentence.
    """
    known = list(values)
    if not known or max(known) - min(known) >= _VISIBLE:
        return None
    low, high = (f"{edge:.2f}" for edge in (min(known), max(known)))
    reach = f"is {low} for all" if low == high else f"lies between {low} and {high} for all"
    return f"{of} {reach} {len(known)} personas"


def square(
    axes: Axes,
    at: tuple[int, int],
    values: tuple[float, float],
    texts: tuple[str, str],
    *,
    side: float,
    size: float,
) -> None:
    """A cell of a matrix, coloured by its value; a dash where there is none.

    Args:
        axes: Whose units are cells.
        at: Row and column.
        values: The value, and the share of the scale that colours it.
        texts: What is written in it, and what is shown on hovering.
        side: Of the square, in cells.
        size: Of the letters, in points.
    """
    (row, column), (value, share), (text, words) = at, values, texts
    ink = FAINT
    if np.isnan(share):
        text = "–"
    else:
        fill, ink = diverging(share)
        corner = (column - side / 2, row - side / 2)
        box = Rectangle(corner, side, side, facecolor=fill, linewidth=0, label=f"{VALUE}{value}")
        box.set_gid(tipped(words))
        axes.add_artist(box)  # limits are given: there is no need to fit them to each square
    axes.text(column, row, text, ha="center", va="center_baseline", fontsize=size, color=ink)


def say_empty(axes: Axes, words: str = _NOTHING) -> None:
    """Write into an empty panel why it is empty."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=QUIET)


def guide(axes: Axes, position: float, words: str, *, strong: bool = False) -> None:
    """A labelled vertical reference line."""
    axes.axvline(
        position,
        color=INK if strong else FAINT,
        linewidth=1.1 if strong else 0.9,
        linestyle="-" if not strong else (0, (4, 2)),
        zorder=1,
    )
    axes.annotate(
        words,
        (position, 1.0),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        color=QUIET,
    )


def numbered(rates: Mapping[str, Rate]) -> dict[str, str]:
    """Numbers of the personas from 1, by falling rate; equal rates in their given order."""
    order = sorted(rates, key=lambda persona: -rates[persona].value)
    return {persona: str(place) for place, persona in enumerate(order, 1)}


def roll(figure: Figure, numbers: Mapping[str, str]) -> None:
    """List the numbered personas in the right margin, which is `ROLL` inches wide, or below."""
    width, height = figure.get_size_inches()
    names = [f"{number:>2}  {short_name(persona)}" for persona, number in numbers.items()]
    lines = ["By bridge rate", *names]
    if narrow():
        rows = -(-len(lines) // 2)
        for place, line in enumerate(lines):
            x, y = (
                0.1 + (place // rows) * (width / 2),
                roll_height(len(names)) - place % rows * 0.17,
            )
            figure.text(x / width, (y - 0.08) / height, line, va="top", fontsize=7.5)
        return
    for place, line in enumerate(lines):
        y = height - 0.43 - place * 0.19
        figure.text(1 - (ROLL - 0.2) / width, y / height, line, va="top", fontsize=8)


def roll_height(count: int) -> float:
    """Inches that the list of so many personas takes below a narrow figure."""
    return 0.17 * -(-(count + 1) // 2) + 0.1


def tipped(words: str) -> str:
    """A group id that becomes the text shown on hovering."""
    return f"{TIP}{words}"


def number_points(axes: Axes, points: Float[np.ndarray, "points xy"], texts: Sequence[str]) -> None:
    """Write a short text beside each point, where it covers no point and no other text.

    Places are tried in a fixed order around each point, the most crowded points first; the first
    that is free is taken, and otherwise the one that covers least. A text that ends up away from
    its point gets a thin line to it.
    """
    pixels = axes.transData.transform(points)
    scale = axes.figure.dpi / 72
    centres = _label_centres(pixels / scale, [6.2 * len(text) for text in texts])
    for (x, y), place, text, at in zip(points, centres, texts, pixels / scale, strict=True):
        away = np.hypot(*(place - at)) > 13
        axes.annotate(
            text,
            (x, y),
            tuple(place - at),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=INK,
            zorder=5,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkB": 3}
            if away
            else None,
        )


def _label_centres(
    points: Float[np.ndarray, "points xy"], widths: Sequence[float]
) -> Float[np.ndarray, "points xy"]:
    """Centres of the labels, in the points' own unit (typographic points)."""
    angles = np.deg2rad(_ANGLES)
    around = np.stack([np.cos(angles), np.sin(angles)], 1)
    tries = np.concatenate([radius * around for radius in _RADII])
    # Along an axis a text would sit on the point's own whisker.
    prices = 0.02 * np.hypot(*tries.T) + 0.6 * (np.abs(tries).min(axis=1) < 1)
    crowd = np.linalg.norm(points[:, None] - points[None], axis=2)
    order = np.argsort((crowd < 25).sum(1) * -1, kind="stable")
    centres = np.zeros_like(points)
    # Boxes to keep clear of, as centre and half size: a point is about nine across.
    boxes = [(*point, 4.5, 4.5) for point in points]
    for i in order:
        covered = _covered(points[i] + tries, widths[i] / 2, np.array(boxes))
        centres[i] = points[i] + tries[int(np.argmin(covered + prices))]
        boxes.append((*centres[i], widths[i] / 2 + 1, 5.0))
    return centres


def _covered(
    centres: Float[np.ndarray, "tries xy"],
    half_width: float,
    boxes: Float[np.ndarray, "boxes 4"],
) -> Float[np.ndarray, " tries"]:
    """The area that a label, nine high, would cover of the boxes, for each place tried."""
    dx, dy = np.abs(centres[:, None] - boxes[None, :, :2]).transpose(2, 0, 1)
    width = np.clip(half_width + boxes[:, 2] - dx, 0, None)
    height = np.clip(4.5 + boxes[:, 3] - dy, 0, None)
    return (width * height).sum(axis=1)
