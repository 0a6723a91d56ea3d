"""Figures at a paper's width: panels that stack where they would be too narrow, titles that wrap.

A drawing made for a page would be scaled down to a column, and its letters with it. Here a figure
keeps the size of its letters and is laid out anew. Inside of `paper(width)` every layout is asked
for here; outside of it nothing changes.
"""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, StepPatch
from matplotlib.text import Text

from steerproof.decide.report.figures.palette import INK, QUIET
from steerproof.errors import SteerproofError
from steerproof.text import clean_line, neutralise_csv

if TYPE_CHECKING:
    from steerproof.decide.report.figures.canvas import Layout

_NARROWEST, _WIDEST = 3.2, 20.0
"""Widths of a figure, in inches, that can be asked for."""
_PANEL = 1.9
"""Least width of a panel, in inches."""
_NARROW = 5.0
"""Below this width nothing stands beside the panels."""
_TALLEST, _LOWEST = 8.5, 0.8
"""Inches: a figure's height where panels may be lower for it, and a panel's least."""
_EDGE = 0.02
_BLACK = "#1a1a1a"
_BETWEEN = 0.78
"""Height between panels that were stacked: ticks, a label and a title."""
_IN_CELL = 0.44
"""Height of the letters in a cell, as a share of its width: three of them fit."""
_WIDTH: ContextVar[float | None] = ContextVar("width", default=None)


@contextmanager
def paper(width: float) -> Iterator[None]:
    """Lay figures out for a width in inches.

    Raises:
        SteerproofError: No figure can be so narrow or so wide.
    """
    if not _NARROWEST <= width <= _WIDEST:
        raise SteerproofError(
            f"a width of {width:g} inches; allowed: {_NARROWEST:g} to {_WIDEST:g} (a column of a"
            " journal has about 3.4, a page 7)"
        )
    token = _WIDTH.set(width)
    try:
        yield
    finally:
        _WIDTH.reset(token)


def paper_width() -> float | None:
    """The width asked for; None on a page."""
    return _WIDTH.get()


def narrow() -> bool:
    """Whether a figure has no room beside its panels."""
    width = paper_width()
    return width is not None and width < _NARROW


def key_columns(entries: int) -> int:
    """Entries of a key in one line."""
    return min(entries, 3) if narrow() else entries


def below(layout: "Layout", height: float) -> "Layout":
    """A layout whose right margin has moved below its panels."""
    return replace(layout, right=0.13, bottom=layout.bottom + height, height=layout.height + height)


def fitted(layout: "Layout") -> "Layout":
    """A layout at the paper's width: as many columns as have room, each panel as high as it was."""
    width = paper_width()
    if width is None:
        return layout
    if narrow() and layout.left > 1:
        layout = replace(layout, left=1.06, right=min(layout.right, 0.5))
    room = width - layout.left - layout.right
    columns = max(1, min(layout.columns, int((room / _PANEL + layout.gap) / (1 + layout.gap))))
    rows = layout.rows * -(-layout.columns // columns)
    wide = room / (columns + layout.gap * (columns - 1))
    was = (layout.height - layout.top - layout.bottom) / layout.rows
    most = (_TALLEST - layout.top - layout.bottom - _BETWEEN * (rows - 1)) / rows
    panel = wide if layout.square else min(was, max(most, _LOWEST))
    height = layout.top + layout.bottom + panel * rows + _BETWEEN * (rows - 1)
    return replace(layout, width=width, columns=columns, rows=rows, height=height)


def stack_gap(layout: "Layout") -> float:
    """Gap between rows as a share of a panel's height."""
    if paper_width() is None or layout.rows < 2:
        return 0.5
    inside = layout.height - layout.top - layout.bottom - _BETWEEN * (layout.rows - 1)
    return _BETWEEN * layout.rows / max(inside, 0.1)


def fit_texts(figure: Figure) -> None:
    """Break titles and labels that are longer than their panel, and fit letters into cells.

    Letters are black: a page's middle tones are for light and dark, and print pale.
    """
    for text in figure.findobj(Text):
        if text.get_color() in (INK, QUIET):
            text.set_color(_BLACK)
    renderer = figure._get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    _label_stacked(figure)
    for axes in figure.axes:
        wide = axes.get_window_extent(renderer)
        along = min(wide.width + 40, figure.bbox.width - wide.x0 - 4)
        titles = (axes.title, axes._left_title)  # pyright: ignore[reportAttributeAccessIssue]
        for text in (*titles, axes.xaxis.label):
            _wrap(text, along, renderer, across=False)
        _wrap(axes.yaxis.label, wide.height + 10, renderer, across=True)
        if any(str(patch.get_label()).startswith(VALUE) for patch in axes.patches):
            _fit_cells(axes, wide.width * 72 / figure.dpi)
    for _ in range(2):
        _keep_inside(figure, renderer)


def _label_stacked(figure: Figure) -> None:
    """Panels that stood side by side shared one label and its ticks; stacked, each has its own."""
    first, *others = figure.axes
    for axes in others:
        if axes.get_position().x0 == first.get_position().x0 and not axes.get_ylabel():
            axes.set_ylabel(first.get_ylabel())
    for axes in figure.axes[:-1]:
        if axes.get_shared_x_axes().joined(axes, figure.axes[-1]):
            axes.tick_params(labelbottom=axes.xaxis.get_ticks_position() != "top")


def _fit_cells(axes: Axes, width: float) -> None:
    """Letters of a matrix of so many points' width that fit into its cells."""
    low, high = axes.get_xlim()
    cell = width / abs(high - low)
    for text in axes.texts:
        if text.get_horizontalalignment() == "center":
            text.set_fontsize(min(float(text.get_fontsize()), _IN_CELL * cell))
    axes.tick_params(labelsize=min(7.5, max(5.5, 0.55 * cell)))


def _keep_inside(figure: Figure, renderer: object) -> None:
    """Move the sides of the panels in until no text reaches over an edge of the figure."""
    box = figure.get_tightbbox(renderer)  # pyright: ignore[reportArgumentType]
    width, height = figure.get_size_inches()
    sides = figure.subplotpars
    figure.subplots_adjust(
        left=sides.left + max(0.0, _EDGE - box.x0) / width,
        right=sides.right - max(0.0, box.x1 - width + _EDGE) / width,
        bottom=sides.bottom + max(0.0, _EDGE - box.y0) / height,
        top=sides.top - max(0.0, box.y1 - height + _EDGE) / height,
    )


def _wrap(text: Text, room: float, renderer: object, *, across: bool) -> None:
    """Put line breaks into a text until it fits, or until every word has its own line."""
    words = text.get_text().split()

    def size() -> float:
        box = text.get_window_extent(renderer)  # pyright: ignore[reportArgumentType]
        return box.height if across else box.width

    lines = 1
    while words and size() > room and lines < min(4, len(words)):
        lines += 1
        text.set_text(_broken(words, lines))


def _broken(words: list[str], lines: int) -> str:
    """Words on so many lines of about equal length."""
    whole = sum(map(len, words)) + len(words)
    broken: list[list[str]] = [[]]
    used = 0
    for word in words:
        if used >= whole / lines * len(broken) and len(broken) < lines:
            broken.append([])
        broken[-1].append(word)
        used += len(word) + 1
    return "\n".join(" ".join(line) for line in broken)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnShape:
    """One thing that a figure shows."""

    panel: str
    kind: str
    """`point`, `interval`, `step` (of a histogram) or `cell` (of a matrix)."""
    series: str = ""
    x: float | None = None
    y: float | None = None
    x_end: float | None = None
    y_end: float | None = None
    value: float | None = None
    x_name: str = ""
    """What stands at that place of the axis."""
    y_name: str = ""


VALUE = "_value "
"""Patches whose label begins so carry the number that their colour shows."""


_TRUE: WeakKeyDictionary[Line2D, np.ndarray] = WeakKeyDictionary()


def stands_for(line: Line2D, x: np.ndarray) -> None:
    """Say where the points of a line are, whose marks were moved apart for the eye."""
    _TRUE[line] = x


def shapes(figure: Figure, tip: str) -> Iterator[DrawnShape]:
    """Everything that a figure shows of the data, in its own numbers; guides and frames apart.

    Args:
        figure: As drawn.
        tip: Prefix of the group ids that hold words for the reader.
    """
    for axes in figure.axes:
        panel = clean_line(axes.get_title(loc="left") or axes.get_title() or axes.get_ylabel())
        yield from _of(axes, panel, tip)


def _of(axes: Axes, panel: str, tip: str) -> Iterator[DrawnShape]:
    shown = _Panel(axes, panel, tip)
    for line in axes.lines:
        if line.get_transform() == axes.transData:
            yield from shown.line(line)
    for drawn in axes.collections:
        if isinstance(drawn, PathCollection):
            for x, y in np.asarray(drawn.get_offsets()):
                yield shown.at("point", drawn, (float(x), float(y)))
        elif isinstance(drawn, LineCollection):
            for path in drawn.get_segments():
                (x, y), (x_end, y_end) = np.asarray(path, dtype=float)[[0, -1]].tolist()
                yield shown.at("interval", drawn, (x, y), (x_end, y_end))
    for patch in axes.patches:
        yield from shown.patch(patch)


class _Panel:
    """The shapes of one panel, with the names that its axes have at their places."""

    def __init__(self, axes: Axes, name: str, tip: str) -> None:
        self._axes, self._name, self._tip = axes, name, tip
        self._across, self._down = _names(axes, "x"), _names(axes, "y")

    def at(
        self,
        kind: str,
        artist: Artist,
        start: tuple[float, float],
        end: tuple[float | None, float | None] = (None, None),
        value: float | None = None,
    ) -> DrawnShape:
        """One shape."""
        x, y = start[0] + 0.0, start[1] + 0.0  # no minus zero
        gid, label = artist.get_gid() or "", str(artist.get_label() or "")
        told = gid.removeprefix(self._tip) if gid.startswith(self._tip) else label
        return DrawnShape(
            panel=self._name,
            kind=kind,
            series="" if told.startswith("_") else clean_line(told),
            x=x,
            y=y,
            x_end=end[0],
            y_end=end[1],
            value=value,
            x_name=self._across.get(round(x), ""),
            y_name=self._down.get(round(y), ""),
        )

    def line(self, line: Line2D) -> Iterator[DrawnShape]:
        """The points of a line that are defined."""
        across, down = map(np.asarray, line.get_data())
        for x, y in zip(_TRUE.get(line, across), down, strict=True):
            if not np.isnan(y):
                yield self.at("point", line, (float(x), float(y)))

    def patch(self, patch: Patch) -> Iterator[DrawnShape]:
        """The steps of a histogram, or a cell of a matrix; other patches are no data."""
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            for value, low, high in zip(values, edges, edges[1:], strict=False):
                yield self.at("step", patch, (float(low), float(value)), (float(high), None))
        elif str(patch.get_label()).startswith(VALUE):
            box = patch.get_extents().transformed(self._axes.transData.inverted())
            middle = (float(box.x0 + box.x1) / 2, float(box.y0 + box.y1) / 2)
            shown = float(str(patch.get_label()).removeprefix(VALUE))
            yield self.at("cell", patch, (round(middle[0], 3), round(middle[1], 3)), value=shown)


def _names(axes: Axes, which: str) -> dict[int, str]:
    """What is written at whole numbers of an axis, where it is another thing than the number."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    names: dict[int, str] = {}
    for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False):
        text = clean_line(label.get_text())
        if abs(place - round(place)) < 1e-6 and text and not _is(text, float(place)):
            names[round(place)] = text
    return names


def _is(text: str, place: float) -> bool:
    """Whether a label is the number of its own place, and so no name."""
    try:
        return abs(float(text.replace("−", "-")) - place) < 1e-6
    except ValueError:
        return False


def data_csv(shapes: Iterator[DrawnShape]) -> str:
    """The shapes as CSV, columns without any entry left out."""
    every = list(shapes)
    names = [
        n for n in DrawnShape.__slots__ if any(getattr(one, n) not in ("", None) for one in every)
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for one in every:
        writer.writerow([_field(getattr(one, name)) for name in names])
    return out.getvalue()


def _field(value: object) -> str:
    if value is None:
        return ""
    return (
        f"{float(value):.7g}"
        if isinstance(value, float | np.floating)
        else neutralise_csv(str(value))
    )
