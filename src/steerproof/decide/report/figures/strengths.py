"""Firing rate of every persona at every strength, arm by arm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steerproof.decide.analysis.kinds import bridge_kind, steered_kind
from steerproof.decide.analysis.rates import lookup
from steerproof.decide.report.figures.canvas import WIDTH, Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import (
    Rate,
    absent,
    rate_axis,
    rates_of,
    say_empty,
    tipped,
)
from steerproof.decide.report.figures.palette import (
    BLUE,
    FAINT,
    GOLD,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SLATE,
)
from steerproof.decide.report.figures.paper import key_columns, narrow, paper_width
from steerproof.decide.report.inputs import ReportInputs, short_name
from steerproof.spec.strength import NONE, Strength

_POSITIVE = (("o", GREEN), ("D", BLUE), ("P", PURPLE), ("X", GOLD), ("h", SLATE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a strength is marked: by shape, filling and colour."""

    marker: str
    fill: str
    edge: str

    def paint(self) -> dict[str, Any]:
        """Arguments of a marker with this filling and edge."""
        return {"markerfacecolor": self.fill, "markeredgecolor": self.edge, "markeredgewidth": 1.1}

    def handle(self, label: str) -> Line2D:
        """An entry of a legend."""
        return Line2D(
            [],
            [],
            linestyle="none",
            marker=self.marker,
            markersize=5.5,
            label=label,
            **self.paint(),
        )


def pull_to_push(strength: Strength) -> tuple[float, str]:
    """Sorts strengths from the hardest pull to the hardest push."""
    return strength.number, str(strength)


def looks(strengths: list[Strength]) -> dict[Strength, Look]:
    """The look of each strength: the unsteered and the negative ones open, the positive filled."""
    styles = {}
    positive = iter(_POSITIVE * len(strengths))
    for strength in strengths:
        if strength.number < 0:
            styles[strength] = Look(marker="v", fill="none", edge=ORANGE)
        elif strength == NONE:
            styles[strength] = Look(marker="o", fill="none", edge=INK)
        else:
            marker, colour = next(positive)
            styles[strength] = Look(marker=marker, fill=colour, edge=colour)
    return styles


def shown_strengths(inputs: ReportInputs, arms: list[str]) -> list[Strength]:
    """Strengths measured under the neutral prompt, from pull to push."""
    measured = {
        strength
        for grid in inputs.experiment.cells
        if grid.prompt == "neutral" and set(grid.arms) & set(arms) and not grid.special
        for strength in grid.strengths
    }
    return sorted(measured, key=pull_to_push)


def _full_arms(inputs: ReportInputs) -> list[str]:
    """Arms that were also measured unsteered under the neutral prompt, in order."""
    grids = [g for g in inputs.experiment.cells if g.prompt == "neutral" and NONE in g.strengths]
    return list(dict.fromkeys(arm for grid in grids for arm in grid.arms))


def strengths(inputs: ReportInputs) -> Drawing:
    """Rate per persona by strength under the neutral prompt, arms side by side."""
    arms = _full_arms(inputs)
    shown = shown_strengths(inputs, arms)
    look = looks(shown)
    personas = _by_bridge(inputs)
    missing: tuple[str, ...] = ()
    with style():
        height = 1.3 + 0.33 * len(personas)
        layout = Layout(
            height=height, left=1.6, bottom=0.55, top=0.72, columns=max(len(arms), 1), gap=0.07
        )
        figure, grid = panels(layout)
        for axes, arm in zip(grid, arms, strict=False):
            missing += _panel(axes, inputs, arm, look)
        grid[0].set_yticks(range(len(personas)), [short_name(p) for p in personas])
        grid[0].set_ylim(len(personas) - 0.45, -0.55)
        grid[0].set_ylabel("personas, by bridge rate")
        strength_key(figure, look, 1.5)
        level = inputs.experiment.analysis.confidence
        return drawing(
            figure,
            "strengths",
            "Firing rate by persona and strength, neutral prompt",
            f"Rows are personas, marks are cells, bars their {level:.0%} Wilson intervals. "
            "Strengths differ in shape as well as in colour.",
            missing,
        )


def _by_bridge(inputs: ReportInputs) -> list[str]:
    """Measured personas, headline ones by bridge rate first, then the supplementary ones."""
    headline = inputs.experiment.headline
    measured = {cell.persona for cell in inputs.rates.cells}

    def place(persona: str) -> tuple[bool, float]:
        counts = lookup(inputs.rates, bridge_kind(inputs.experiment), persona)
        return persona not in headline, -counts.rate if counts else 1.0

    names = [p.name for p in inputs.experiment.personas if p.headline or p.name in measured]
    return sorted(names, key=place)


def _panel(
    axes: Axes, inputs: ReportInputs, arm: str, look: dict[Strength, Look]
) -> tuple[str, ...]:
    """Draw one arm; what is missing is returned."""
    experiment, level = inputs.experiment, inputs.experiment.analysis.confidence
    personas = _by_bridge(inputs)
    wanted = personas if experiment.arm(arm).supplementary else experiment.headline
    missing: tuple[str, ...] = ()
    drawn = 0
    for place, (strength, mark) in enumerate(look.items()):
        kind = steered_kind(experiment, arm, strength)
        rates = rates_of(inputs.rates, kind, wanted, level)
        missing += absent(kind, wanted, rates)
        drawn += len(rates)
        shift = (place - (len(look) - 1) / 2) * 0.18
        rows = [personas.index(persona) + shift for persona in rates]
        ends = [rate.low for rate in rates.values()], [rate.high for rate in rates.values()]
        axes.hlines(rows, *ends, color=FAINT, linewidth=0.9, alpha=0.7)
        for row, (persona, rate) in zip(rows, rates.items(), strict=True):
            _mark(axes, row, rate, mark, f"{short_name(persona)}, {kind.name}: {rate.words}")
    axes.set_title(f"Arm {arm}", pad=6)
    rate_axis(axes, "firing rate", vertical=False)
    axes.grid(visible=False, axis="y")
    for row in range(1, len(personas), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=FAINT, alpha=0.1, linewidth=0)
    if not drawn:
        say_empty(axes)
    return missing


def _mark(axes: Axes, y: float, rate: Rate, look: Look, words: str) -> None:
    axes.plot(
        [rate.value], [y], look.marker, markersize=4.8, zorder=4, gid=tipped(words), **look.paint()
    )


def strength_key(figure: Figure, look: Mapping[Strength, Look], left: float) -> None:
    """Name the strengths along the top, from `left` inches on."""
    names = {strength: "unsteered" if strength == NONE else str(strength) for strength in look}
    handles = [mark.handle(names[strength]) for strength, mark in look.items()]
    figure.legend(
        handles=handles,
        loc="upper left",
        ncols=key_columns(len(handles)),
        bbox_to_anchor=(0.0 if narrow() else left / (paper_width() or WIDTH), 1.0),
        columnspacing=1.6,
    )
