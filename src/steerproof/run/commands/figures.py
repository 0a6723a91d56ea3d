"""`figures`: a run's figures at a paper's width, the data of each, and a table for LaTeX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from steerproof.decide.report.figures import draw_all
from steerproof.decide.report.figures.canvas import TIP, Drawing, as_file
from steerproof.decide.report.figures.paper import data_csv, paper, shapes
from steerproof.decide.report.figures.sweep import sweep_figure
from steerproof.decide.report.latex import table
from steerproof.errors import SteerproofError
from steerproof.run.commands.concluding import gathered_in
from steerproof.run.commands.report_inputs import report_inputs
from steerproof.run.commands.session import session_in
from steerproof.run.commands.sweep import is_sweep, selection_in

Format = Literal["pdf", "svg", "png"]
FORMATS: tuple[Format, ...] = ("pdf", "svg", "png")
TABLE = "main-numbers.tex"
_UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
_SHEETS = {"matrix-sheet": 7.0}
"""Figures of several panels that say nothing in a stack, by least width."""


def width_in_inches(text: str) -> float:
    """Read a width: `3.4in`, `86mm`, `8.6cm`, `246pt`.

    Raises:
        SteerproofError: It is none.
    """
    unit = text.strip()[-2:]
    try:
        if unit not in _UNITS:
            raise ValueError
        return float(text.strip()[:-2]) * _UNITS[unit]
    except ValueError:
        raise SteerproofError(
            f"{text!r} is no width; write a number and in, cm, mm or pt, such as 3.4in"
        ) from None


def figure_files(run: Path, kind: str, width: float) -> Mapping[str, bytes]:
    """Every figure of a run, with its data, and the table; by file name.

    Args:
        run: The run directory, or a sweep's.
        kind: `pdf`, `svg` or `png`.
        width: Inches.

    Raises:
        SteerproofError: There is no such format, or no analysis yet.
        IntegrityError: A file is not what its manifest says.
    """
    if kind not in FORMATS:
        raise SteerproofError(f"no format {kind!r}; choose {', '.join(FORMATS)}")
    if is_sweep(run):
        return _of_sweep(run, kind, width)
    session = session_in(run)
    gathered = gathered_in(session)
    if not gathered.judged:
        raise SteerproofError(f"no finished analysis in {run}; go on with: {session.command}")
    inputs = report_inputs(gathered)
    files: dict[str, bytes] = {}
    with paper(width):
        for name, shown in draw_all(inputs).items():
            if isinstance(shown, Drawing) and width >= _SHEETS.get(name, 0):
                files |= _files(shown, kind)
    files[TABLE] = table(inputs).encode()
    return files


def _of_sweep(run: Path, kind: str, width: float) -> Mapping[str, bytes]:
    """The figure over all runs of a sweep; each run has its own besides."""
    with paper(width):
        shown = sweep_figure(selection_in(run))
        if isinstance(shown, str):
            raise SteerproofError(f"{run}: {shown}")
        return _files(shown, kind)


def _files(shown: Drawing, kind: str) -> dict[str, bytes]:
    """A figure, and its data."""
    files = {f"{shown.name}.{kind}": as_file(shown, kind)}
    if shown.figure is not None:
        files[f"{shown.name}.csv"] = data_csv(shapes(shown.figure, TIP)).encode()
    return files
