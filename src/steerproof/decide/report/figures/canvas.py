"""From a matplotlib figure to SVG that a strict page accepts.

matplotlib writes `style` attributes, a style sheet, metadata and repeated identifiers. A page
with a strict content policy blocks the first two, and several figures on a page collide in the
last; so the drawing is rewritten: presentation attributes only, prefixed identifiers, a title and
a description for screen readers, colours as variables. The same input gives the same bytes.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerproof.decide.report.figures.palette import FAINT, INK, QUIET, VARIABLES
from steerproof.decide.report.figures.paper import fit_texts, fitted, paper_width, stack_gap

WIDTH = 8.6
"""Width of a figure in inches; a page scales it to its column."""
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that no XML may hold, and a label that others wrote may."""
_WIDE = 540
"""Figures at least this wide, in points, fill the column of a page."""
_SMALL = 340
"""Figures at most this wide can be read on a phone without scrolling."""
TIP = "tip|"
"""Artists whose group id starts so show the rest of it when hovered."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "steerproof",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "text.color": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 1.2,
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_STILL = re.compile(r"rotate\(-?0(\.0*)? [^)]*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One figure, ready for a page and for a file."""

    name: str
    """File name without ending, and prefix of its identifiers."""
    title: str
    """What it shows, in a few words."""
    description: str
    """How to read it: what is on the axes, what the marks mean."""
    svg: str
    """A complete SVG file in colours that suit light and dark."""
    inline: str
    """The same as an element of a page, in the page's colours."""
    missing: tuple[str, ...] = ()
    """What is not drawn, and why."""
    figure: Figure | None = field(default=None, compare=False, repr=False)
    """As matplotlib has it, for other formats and for its data."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in the project's style; the caller's settings return afterwards."""
    with matplotlib.rc_context(_STYLE):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the panels of a figure lie, in inches."""

    height: float
    width: float = WIDTH
    left: float = 0.73
    right: float = 0.13
    bottom: float = 0.52
    top: float = 0.4
    columns: int = 1
    rows: int = 1
    gap: float = 0.1
    """Between columns, as a share of a panel's width."""
    square: bool = False
    """A panel is as high as it is wide, whatever the width."""


def panels(layout: Layout, *, share: str = "xy") -> tuple[Figure, list[Axes]]:
    """An empty figure with its panels, row by row.

    Args:
        layout: Sizes and margins.
        share: Axes that all panels have in common: `xy`, `x` or `y`.
    """
    count = layout.columns * layout.rows
    layout = fitted(layout)
    figure = Figure(figsize=(layout.width, layout.height))
    grid = figure.subplots(
        layout.rows, layout.columns, sharex="x" in share, sharey="y" in share, squeeze=False
    )
    figure.subplots_adjust(
        left=layout.left / layout.width,
        right=1 - layout.right / layout.width,
        bottom=layout.bottom / layout.height,
        top=1 - layout.top / layout.height,
        wspace=layout.gap,
        hspace=stack_gap(layout),
    )
    for unused in grid.flat[count:]:
        figure.delaxes(unused)
    return figure, list(grid.flat[:count])


def drawing(
    figure: Figure, name: str, title: str, description: str, missing: tuple[str, ...] = ()
) -> Drawing:
    """Write a matplotlib figure as SVG, once for files and once for pages.

    Args:
        figure: Drawn inside `style()`.
        name: File name without ending.
        title: What it shows.
        description: How to read it.
        missing: What is not drawn, and why.
    """
    with style():
        if paper_width() is not None:
            fit_texts(figure)
        raw = io.StringIO()
        figure.savefig(raw, format="svg", metadata={"Date": None})
    root = _rewritten(raw.getvalue(), name, title, description)
    width = float(root.get("width", "0"))
    root.set("class", "wide" if width >= _WIDE else "small" if width <= _SMALL else "narrow")
    inline = ElementTree.tostring(root, encoding="unicode")
    del root.attrib["class"]
    for colour, variable in VARIABLES.items():
        inline = inline.replace(f'"{colour}"', f'"var({variable},{colour})"')
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("font-family", _FONT)
    svg = ElementTree.tostring(root, encoding="unicode")
    return Drawing(
        name=name,
        title=title,
        description=description,
        svg=svg + "\n",
        inline=inline,
        missing=missing,
        figure=figure,
    )


def as_file(shown: Drawing, kind: str) -> bytes:
    """A drawing as SVG, PDF or PNG; the same drawing gives the same bytes.

    Args:
        shown: Drawn by `drawing`.
        kind: `svg`, `pdf` or `png`.
    """
    if kind == "svg" or shown.figure is None:
        return shown.svg.encode()
    with style(), matplotlib.rc_context({"pdf.fonttype": 42}):  # letters stay letters
        raw = io.BytesIO()
        if kind == "pdf":
            known = {"CreationDate": None, "Title": shown.title, "Subject": shown.description}
            shown.figure.savefig(raw, format="pdf", metadata=known)
        else:
            shown.figure.savefig(raw, format="png", dpi=300, facecolor="white")
    return raw.getvalue()


def _rewritten(text: str, name: str, title: str, description: str) -> ElementTree.Element:
    root = ElementTree.fromstring(_NO_XML.sub("\ufffd", text))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            element.set(key.rpartition("}")[2], element.attrib.pop(key))
        _presentation(element)
        element.text = element.tail = None if not (element.text or "").strip() else element.text
        element.tail = None
    for parent, tag in ((root, "metadata"), *((defs, "style") for defs in root.iter("defs"))):
        for child in parent.findall(tag):
            parent.remove(child)
    _identifiers(root, name)
    _flatten(root)
    width, height = (root.get(side, "").removesuffix("pt") for side in ("width", "height"))
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width} {height}",
            "width": width,
            "height": height,
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-description",
            "stroke-linejoin": "round",
        }
    )
    for position, (tag, words) in enumerate((("title", title), ("desc", description))):
        label = ElementTree.Element(
            tag, id=f"{name}-{'title' if tag == 'title' else 'description'}"
        )
        label.text = words
        root.insert(position, label)
    return root


def _presentation(element: ElementTree.Element) -> None:
    """Turn a style attribute into presentation attributes and shorten the numbers."""
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = part.partition(":")
        if value and key.strip() != "font-family":
            element.set(key.strip(), value.strip())
    if _STILL.fullmatch(element.get("transform", "")):
        del element.attrib["transform"]
    for key in ("d", "x", "y", "transform", "stroke-dasharray", "stroke-width"):
        if key in element.attrib:
            short = _NUMBER.sub(lambda m: f"{float(m[0]):z.2f}", element.attrib[key])
            element.set(key, " ".join(short.split()))


def _identifiers(root: ElementTree.Element, name: str) -> None:
    """Keep identifiers that are referred to, prefixed; turn tips into titles."""
    used = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            used.update(_REFERENCE.findall(value))
            if key == "href":
                used.add(value.removeprefix("#"))
    for element in root.iter():
        own = element.attrib.pop("id", "")
        if own.startswith(TIP):
            tip = ElementTree.Element("title")
            tip.text = own.removeprefix(TIP)
            element.insert(0, tip)
        elif own in used:
            element.set("id", f"{name}-{own}")
        for key, value in list(element.attrib.items()):
            value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
            element.set(key, f"#{name}-{value[1:]}" if key == "href" else value)


def _flatten(element: ElementTree.Element) -> None:
    """Replace groups without attributes or titles by their children."""
    children: list[ElementTree.Element] = []
    for child in list(element):
        _flatten(child)
        plain = child.tag == "g" and not child.attrib
        titled = any(c.tag == "title" for c in child)
        children += list(child) if plain and not titled else [child]
        element.remove(child)
    element.extend(children)
