"""The question itself: does steering recover the ranking that the prompt gives?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from steerproof.decide.analysis.kinds import bridge_kind, steered_kind
from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import (
    ROLL,
    Rate,
    absent,
    flat,
    number_points,
    numbered,
    rate_axis,
    rates_of,
    roll,
    roll_height,
    say_empty,
    tipped,
)
from steerproof.decide.report.figures.palette import BLUE, FAINT, ORANGE, SERIES
from steerproof.decide.report.figures.paper import below, narrow
from steerproof.decide.report.inputs import ReportInputs, short_name
from steerproof.decide.report.wording import sentence, signed
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import Strength


def ranking(inputs: ReportInputs, strength: Strength, name: str) -> Drawing | str:
    """Steered rate against bridge rate, the tested arm beside the one that must fail.

    Args:
        inputs: The report's inputs.
        strength: Strength of the steered cells.
        name: File name of the drawing.
    """
    arms = tested_arms(inputs)
    return scatter(
        inputs,
        [
            (_title(inputs, arm, strength), steered_kind(inputs.experiment, arm, strength))
            for arm in arms
        ],
        name,
        f"Steered against prompted firing rate at {strength}",
        "A rising cloud means that steering recovers the prompted ranking.",
    )


def tested_arms(inputs: ReportInputs) -> list[str]:
    """The arm that the verdict is about, and the one that must fail the same rule."""
    arms = (inputs.analysis.arm, inputs.experiment.analysis.baseline_arm)
    return list(dict.fromkeys(arm for arm in arms if arm is not None))


def _title(inputs: ReportInputs, arm: str, strength: Strength) -> str:
    measured = inputs.analysis.arms.get(arm)
    for result in measured.strengths if measured else ():
        if result.strength == str(strength):
            return f"Arm {arm} at {strength}: ρ = {signed(result.rho)}"
    return f"Arm {arm} at {strength}: not measured"


def scatter(
    inputs: ReportInputs,
    kinds: Sequence[tuple[str, CellKind]],
    name: str,
    title: str,
    reading: str,
) -> Drawing | str:
    """One or two panels of steered rate against bridge rate, on the same axes.

    A panel whose points would all lie in a corner or on a line is told in a sentence.

    Args:
        inputs: The report's inputs.
        kinds: Title and kind of cell of each panel.
        name: File name of the drawing.
        title: What it shows.
        reading: How to read it, after a sentence on points and bars.
    """
    personas, level = inputs.experiment.headline, inputs.experiment.analysis.confidence
    bridge = rates_of(inputs.rates, bridge_kind(inputs.experiment), personas, level)
    missing = absent(bridge_kind(inputs.experiment), personas, bridge)
    drawn = []
    for words, kind in kinds:
        steered = rates_of(inputs.rates, kind, personas, level)
        missing += absent(kind, personas, steered)
        level_rates = flat((rate.value for rate in steered.values()), "the steered rate")
        if level_rates is None:
            drawn.append(Panel(title=words, bridge=bridge, steered=steered))
        else:
            missing += (f"{words}: not drawn, since {level_rates}",)
    level_bridge = flat((rate.value for rate in bridge.values()), "the bridge")
    if level_bridge is not None:
        return f"{title}: not drawn, since {level_bridge}, so there is no ranking to compare with."
    if not drawn:
        return sentence(f"{title}: {'; '.join(missing)}")
    description = (
        "One numbered point per headline persona, the same number in every panel; bars are "
        f"{level:.0%} Wilson intervals of each rate. {reading}"
    )
    return rate_panels(drawn, name, title, description, missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Two rates for each persona: the horizontal and the vertical place of its point."""

    title: str
    bridge: Mapping[str, Rate]
    steered: Mapping[str, Rate]


def rate_panels(
    shown: Sequence[Panel], name: str, title: str, description: str, missing: tuple[str, ...] = ()
) -> Drawing:
    """Steered rate against bridge rate, with intervals; a persona has one number in all panels."""
    everyone = {persona: rate for one in reversed(shown) for persona, rate in one.bridge.items()}
    numbers = numbered(everyone)
    with style():
        figure, grid = panels(square_panels(len(shown), len(numbers)))
        for place, (axes, one) in enumerate(zip(grid, shown, strict=True)):
            axes.set_title(one.title)
            rate_axis(axes, "bridge: firing rate under the own prompt", vertical=False)
            rate_axis(axes, "firing rate under the push" if place == 0 else "", vertical=True)
            _points(axes, one, numbers, place)
        roll(figure, numbers)
        return drawing(figure, name, title, description, missing)


def square_panels(columns: int, personas: int) -> Layout:
    """Square panels in a row, with room for the list of so many personas."""
    beside = Layout(
        height=4.05, width=3.0 * columns + 2.6, left=0.65, right=ROLL, columns=columns, square=True
    )
    # In a narrow column of a paper the list stands below.
    return below(beside, roll_height(personas)) if narrow() else beside


def _points(
    axes: Axes,
    panel: Panel,
    numbers: Mapping[str, str],
    place: int,
) -> None:
    bridge, steered = panel.bridge, panel.steered
    both = [persona for persona in numbers if persona in bridge and persona in steered]
    if not both:
        say_empty(axes)
        return
    colour, shape = (BLUE, SERIES[0][1]) if place == 0 else (ORANGE, SERIES[2][1])
    xs, ys = [bridge[p] for p in both], [steered[p] for p in both]
    thin = {"color": FAINT, "linewidth": 0.9, "alpha": 0.7}
    axes.hlines([y.value for y in ys], [x.low for x in xs], [x.high for x in xs], **thin)
    axes.vlines([x.value for x in xs], [y.low for y in ys], [y.high for y in ys], **thin)
    for persona, x, y in zip(both, xs, ys, strict=True):
        words = f"{short_name(persona)}: steered {y.words}; bridge {x.words}"
        axes.plot(
            [x.value],
            [y.value],
            shape,
            color=colour,
            markersize=5.5,
            markeredgewidth=0,
            gid=tipped(words),
            zorder=4,
        )
    points = np.array([(x.value, y.value) for x, y in zip(xs, ys, strict=True)])
    number_points(axes, points, [numbers[p] for p in both])
