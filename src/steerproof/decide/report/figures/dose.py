"""Firing rate by strength, small enough for the first screen: persona by persona, and the mean."""

import numpy as np
from matplotlib.axes import Axes

from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.rates import cell_rates
from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import rate_axis, tipped
from steerproof.decide.report.figures.palette import BLUE, FAINT, ORANGE
from steerproof.decide.report.figures.ranking import tested_arms
from steerproof.decide.report.figures.strengths import shown_strengths
from steerproof.decide.report.inputs import ReportInputs, short_name
from steerproof.spec.strength import NONE, Strength

_WIDTH = 4.6
"""Inches: it can be read on a phone without scrolling."""


def dose(inputs: ReportInputs) -> Drawing | str:
    """Rate by strength under the neutral prompt, the tested arm beside the one that must fail."""
    arms = [arm for arm in tested_arms(inputs) if _strengths(inputs, arm)]
    if not arms:
        return "No arm was measured under the neutral prompt, so there is no rate by strength."
    with style():
        layout = Layout(
            height=3.1,
            width=_WIDTH,
            left=0.55,
            right=0.06,
            bottom=0.42,
            columns=len(arms),
            gap=0.08,
        )
        figure, grid = panels(layout, share="y")
        for place, (axes, arm) in enumerate(zip(grid, arms, strict=True)):
            _panel(axes, inputs, arm, (BLUE, ORANGE)[place])
            axes.set_title(f"Arm {arm} ({_training(inputs, arm)})")
        rate_axis(grid[0], "firing rate", vertical=True)
        return drawing(
            figure,
            "dose",
            f"How often {_what(inputs)}, by strength of the push",
            "Thin lines are personas, the broad one their mean, under the neutral prompt. At c=+2 "
            "twice the direction is added; a ratio is the size of the push over the usual norm of "
            "the activations. Apart on the right: no push, but each persona's own prompt; of arm "
            f"{inputs.experiment.analysis.bridge_arm} these rates are the bridge, the ranking to "
            "recover.",
        )


def _what(inputs: ReportInputs) -> str:
    """What counts, in a few words."""
    return "the marker appears" if inputs.experiment.scoring.readout == "marker" else "answers fire"


def _strengths(inputs: ReportInputs, arm: str) -> list[Strength]:
    personas = inputs.experiment.headline
    return [
        strength
        for strength in shown_strengths(inputs, [arm])
        if not np.isnan(
            cell_rates(inputs.rates, steered_kind(inputs.experiment, arm, strength), personas)
        ).all()
    ]


def _training(inputs: ReportInputs, arm: str) -> str:
    """What the arm was trained with, in a word."""
    trained = inputs.experiment.arm(arm)
    if trained.direction == "none":
        return "prompt"
    return trained.direction.replace("_", "-")


def _panel(axes: Axes, inputs: ReportInputs, arm: str, colour: str) -> None:
    experiment, personas = inputs.experiment, inputs.experiment.headline
    strengths = _strengths(inputs, arm)
    kinds = [steered_kind(experiment, arm, strength) for strength in strengths]
    rates = np.array([cell_rates(inputs.rates, kind, personas) for kind in kinds])
    places = np.arange(len(strengths), dtype=float)
    for persona, line in zip(personas, rates.T, strict=True):
        axes.plot(
            places,
            line,
            color=colour,
            alpha=0.35,
            linewidth=0.9,
            marker="o",
            markersize=2.2,
            gid=tipped(short_name(persona)),
        )
    with np.errstate(invalid="ignore"):
        mean = np.nanmean(rates, axis=1)
        axes.plot(places, mean, color=colour, linewidth=2.6, gid=tipped("mean"))
    prompted = cell_rates(inputs.rates, steered_kind(experiment, arm, NONE, "persona"), personas)
    labels = [_label(strength) for strength in strengths]
    if not np.isnan(prompted).all():
        apart = len(strengths) + 0.25
        axes.axvline(len(strengths) - 0.4, color=FAINT, linewidth=0.8)
        axes.plot(
            np.full(len(personas), apart), prompted, "o", color=colour, alpha=0.4, markersize=3
        )
        mean = float(np.nanmean(prompted))
        axes.plot([apart - 0.28, apart + 0.28], [mean, mean], color=colour, linewidth=2.6)
        places = np.append(places, apart)
        labels.append("own\nprompt")
    axes.set_xticks(places, labels)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlim(-0.4, places[-1] + 0.45)
    axes.grid(visible=False, axis="x")
    rate_axis(axes, "", vertical=True)


def _label(strength: Strength) -> str:
    if strength == NONE:
        return "no\npush"
    kind, _, number = str(strength).partition("=")
    return f"{kind}\n{number.replace('-', '−')}"
