"""The report's figures for a page of the board, each drawn once for the same numbers."""

import threading
from functools import lru_cache

from markupsafe import Markup

from steerproof.decide.report.figures.learning import loss_panels
from steerproof.decide.report.figures.marks import rate
from steerproof.decide.report.figures.ranking import Panel, rate_panels

Curves = tuple[tuple[str, tuple[float, ...]], ...]
"""Of each adapter its persona and the loss of every step."""
Counted = tuple[tuple[str, tuple[int, int], tuple[int, int]], ...]
"""Of each persona fired and total of its bridge, and of its steered cell."""

# matplotlib's settings belong to the process, and pages are made in several threads.
_DRAWING = threading.Lock()
_LEVEL = 0.95


@lru_cache(maxsize=32)
def losses(arms: tuple[tuple[str, Curves], ...]) -> Markup | None:
    """Training losses, one panel per arm; none without adapters."""
    if not arms:
        return None
    with _DRAWING:
        return Markup(loss_panels(dict(arms)).inline)


@lru_cache(maxsize=32)
def compared(sides: tuple[tuple[str, Counted], ...], cells: str) -> Markup:
    """Steered against bridge rate, one panel for each side of a comparison.

    Args:
        sides: Title and counts of each.
        cells: Which cells were steered, in words.
    """
    shown = [
        Panel(
            title=title,
            bridge={persona: rate(*bridge, _LEVEL) for persona, bridge, _ in counted},
            steered={persona: rate(*steered, _LEVEL) for persona, _, steered in counted},
        )
        for title, counted in sides
    ]
    with _DRAWING:
        drawn = rate_panels(
            shown,
            "compared",
            f"Steered against prompted firing rate: {cells}",
            "One numbered point per persona; bars are 95% Wilson intervals of each rate.",
        )
    return Markup(drawn.inline)
