"""A sweep: the effect at each setting, beside what random directions do there. Exploratory."""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes

from steerproof.decide.analysis.selection import Selection, SettingRow
from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import tipped
from steerproof.decide.report.figures.palette import FAINT, INK, QUIET, SERIES
from steerproof.decide.report.figures.paper import fitted, paper_width
from steerproof.text import clean

_WIDTH = 5.4
_PER_INCH = 17
"""Letters of the line below the title in an inch."""
_LONGEST = 18
"""Letters of a value on the axis."""


def sweep_figure(selection: Selection) -> Drawing | str:
    """Effect by setting; a sentence where no setting was measured whole."""
    if all(row.effects.whole is None for row in selection.rows):
        return "No setting was measured whole, so there is no effect to draw."
    place = _across(selection.rows)
    series = _series(selection.rows, place)
    values = list(dict.fromkeys(row.setting.get(place, "all") for row in selection.rows))
    with style():
        told = wrap(_words(selection), int(_PER_INCH * (paper_width() or _WIDTH)))
        legend = 0.19 * (len(series) if len(series) > 1 else 0) + 0.15 * (len(told) - 1)
        layout = Layout(height=3.3 + legend, width=_WIDTH, left=0.62, right=0.1, top=0.62 + legend)
        layout = fitted(layout)
        figure, (axes,) = panels(layout)
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        for i, (label, rows) in enumerate(series.items()):
            shift = (i - (len(series) - 1) / 2) * min(0.5 / len(series), 0.18)
            _draw(axes, rows, (place, values, shift), SERIES[i % len(SERIES)], label)
        axes.set_xticks(range(len(values)), [_short(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(clean(place) or "one setting")
        axes.set_ylabel("rate pushed − rate unpushed")
        height = layout.height
        figure.text(0.012, 1 - 0.08 / height, "Exploratory sweep", va="top", weight="bold")
        figure.text(0.012, 1 - 0.27 / height, "\n".join(told), va="top", fontsize=7.5, color=QUIET)
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.1)
        return drawing(
            figure,
            "sweep",
            "Exploratory: effect at each setting of a sweep",
            "Coloured: the arm's own direction, all questions, mean over seeds; grey: fresh random "
            "directions given to the same adapters. The best of several looks better than it is.",
        )


def _across(rows: Sequence[SettingRow]) -> str:
    """The field with the most values lies along the axis."""
    counts = {place: len({row.setting[place] for row in rows}) for place in rows[0].setting}
    return max(counts, key=lambda place: counts[place], default="")


def _series(rows: Sequence[SettingRow], place: str) -> dict[str, list[SettingRow]]:
    """Rows by the values of the other fields."""
    by_series: dict[str, list[SettingRow]] = {}
    for row in rows:
        others = ", ".join(
            f"{clean(key)}={_short(v)}" for key, v in row.setting.items() if key != place
        )
        by_series.setdefault(others, []).append(row)
    return by_series


def _draw(
    axes: Axes,
    rows: Sequence[SettingRow],
    at: tuple[str, list[str], float],
    look: tuple[str, str],
    label: str,
) -> None:
    """One series: its random directions in grey, its own effect over them."""
    place, values, shift = at
    known: list[tuple[float, float]] = []
    for row in rows:
        x = values.index(row.setting.get(place, "all")) + shift
        null = [value for value in row.null if value is not None]
        axes.plot(
            np.full(len(null), x), null, "_", color=FAINT, markersize=7, zorder=2,
            gid=tipped("random directions"),
        )  # fmt: skip
        if row.effects.whole is not None:
            known.append((x, row.effects.whole))
    colour, mark = look
    xs, ys = zip(*known, strict=True) if known else ((), ())
    axes.plot(
        xs, ys, color=colour, marker=mark, markersize=5, label=label or None, zorder=3,
        gid=tipped(label or "own direction"),
    )  # fmt: skip


def _words(selection: Selection) -> str:
    if selection.chosen is None:
        return "fewer than two settings were measured whole: nothing was chosen"
    words = f"best {selection.chosen.best_of_all:+z.2f}; held out {selection.chosen.held_out:+z.2f}"
    if not selection.null:
        return f"{words}; no random directions were measured"
    held = [one.held_out for one in selection.null]
    reach = f"{min(held):+z.2f} to {max(held):+z.2f}"
    return f"{words}; {len(held)} random ones, chosen alike: {reach}; p = {selection.p:.3f}"


def _short(value: str) -> str:
    value = clean(value)
    return value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
