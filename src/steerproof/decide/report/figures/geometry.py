"""The directions themselves: how alike they are, and whether that predicts the bridge."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from steerproof.decide.analysis.kinds import bridge_kind
from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import (
    flat,
    number_points,
    numbered,
    rate_axis,
    rates_of,
    roll,
    say_empty,
    square,
    tipped,
)
from steerproof.decide.report.figures.palette import FAINT, SERIES
from steerproof.decide.report.figures.ranking import square_panels
from steerproof.decide.report.inputs import ReportInputs, short_name
from steerproof.decide.report.wording import signed


def cosines(inputs: ReportInputs) -> Drawing | None:
    """Cosine of every pair of centroids at the primary layer; None without a calibration."""
    layer = inputs.experiment.layers.primary
    measured = inputs.calibration.get(layer)
    if measured is None:
        return None
    table = measured.cosines
    names = [p.name for p in inputs.experiment.personas if p.name in table]
    with style():
        side = 0.385 * len(names)
        layout = Layout(
            height=side + 1.4,
            width=side + 2.4,
            left=1.65,
            right=0.75,
            bottom=0.08,
            top=1.32,
            square=True,
        )
        figure, (axes,) = panels(layout)
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                _cell(axes, i, j, table[a][b], f"{short_name(a)}, {short_name(b)}")
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xticks(range(len(names)), [short_name(n) for n in names], rotation=45, ha="left")
        axes.set_yticks(range(len(names)), [short_name(n) for n in names])
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return drawing(
            figure,
            "cosines",
            f"Cosine between persona directions, layer {layer}",
            "Centred centroids; the cosine is written in each cell. Blue is alike, orange is "
            "opposite. Personas with alike directions are hard to tell apart by steering.",
        )


def _cell(axes: Axes, row: int, column: int, value: float | None, words: str) -> None:
    value = math.nan if value is None else value  # a direction of no length has no angles
    text = "1" if row == column else _short(value)
    words = f"{words}: {value:+z.3f}"
    square(axes, (row, column), (value, value), (text, words), side=0.96, size=7.2)


def _short(value: float) -> str:
    """`+.23`, `−.07`, `0`: a cosine in as little room as possible."""
    text = f"{value:+z.2f}".replace("0.", ".").replace("-", "−")
    return "0" if text in ("+.00", "−.00") else text


def reference(inputs: ReportInputs) -> Drawing | str | None:
    """Cosine to the reference persona against the bridge, layer by layer."""
    layers = inputs.calibration
    if not layers:
        return None
    experiment = inputs.experiment
    names = [persona.name for persona in experiment.personas]
    bridge = rates_of(inputs.rates, bridge_kind(experiment), names, experiment.analysis.confidence)
    level = flat((rate.value for rate in bridge.values()), "the bridge")
    if level is not None:
        return f"Closeness to the reference persona: not drawn, since {level}."
    numbers = numbered(bridge)
    shown = sorted(layers, key=lambda layer: (layer != experiment.layers.primary, layer))
    with style():
        figure, grid = panels(square_panels(len(shown), len(numbers)), share="y")
        for place, (axes, layer) in enumerate(zip(grid, shown, strict=True)):
            cosines_of = {p: layers[layer].personas[p].reference_cosine for p in bridge}
            values = {p: cosine for p, cosine in cosines_of.items() if cosine is not None}
            _against_bridge(axes, values, {p: bridge[p].value for p in bridge}, numbers)
            axes.set_title(_title(inputs, layer))
            axes.set_xlabel(f"cosine to {short_name(experiment.reference_persona)}")
            rate_axis(
                axes,
                "bridge: firing rate under the own prompt" if place == 0 else "",
                vertical=True,
            )
        roll(figure, numbers)
        return drawing(
            figure,
            "reference",
            "Closeness to the reference persona against the bridge",
            "All personas, supplementary ones included. A slope means that the prompted rate "
            "follows the geometry of the directions, before any steering.",
        )


def _title(inputs: ReportInputs, layer: int) -> str:
    correlation = inputs.analysis.geometry
    at_layer = None if correlation is None else correlation.layers.get(str(layer))
    return f"Layer {layer}: ρ = {signed(None if at_layer is None else at_layer.rho)}"


def _against_bridge(
    axes: Axes, values: Mapping[str, float], rates: Mapping[str, float], numbers: Mapping[str, str]
) -> None:
    axes.axvline(0, color=FAINT, linewidth=0.9)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    rate_axis(axes, "", vertical=True)
    if not values:
        say_empty(axes)
        return
    colour, shape = SERIES[0]
    for persona, value in values.items():
        words = f"{short_name(persona)}: cosine {value:+z.2f}, bridge {rates[persona]:.2f}"
        axes.plot(
            [value],
            [rates[persona]],
            shape,
            color=colour,
            markersize=5.5,
            markeredgewidth=0,
            gid=tipped(words),
            zorder=4,
        )
    points = np.array([(values[p], rates[p]) for p in values])
    number_points(axes, points, [numbers[p] for p in values])
