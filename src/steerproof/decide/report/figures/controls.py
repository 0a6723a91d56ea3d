"""The controls: arms that must not pass, and pushes that must go the right way."""

from dataclasses import dataclass

from matplotlib.axes import Axes

from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.report.figures.canvas import WIDTH, Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import (
    Rate,
    absent,
    flat,
    rate_axis,
    rates_of,
    say_empty,
    tipped,
)
from steerproof.decide.report.figures.palette import BLUE, FAINT, INK, ORANGE
from steerproof.decide.report.figures.ranking import scatter
from steerproof.decide.report.inputs import ReportInputs, short_name
from steerproof.decide.report.wording import sentence
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two cells of every persona, to be compared persona by persona."""

    title: str
    left: CellKind
    right: CellKind
    labels: tuple[str, str]
    """Names of the two cells on the axis."""


def control_arms(inputs: ReportInputs) -> Drawing | str | None:
    """The isotropic and the contrast arm against the bridge; None if there is neither."""
    experiment = inputs.experiment
    asked = experiment.analysis
    named = (asked.isotropic_arm, asked.contrast_arm)
    arms = [arm for arm in named if arm is not None and arm != inputs.analysis.arm]
    if not arms:
        return None
    kinds = [steered_kind(experiment, arm, asked.primary_strength) for arm in arms]
    titles = [_title(inputs, arm) for arm in arms]
    return scatter(
        inputs,
        list(zip(titles, kinds, strict=True)),
        "controls",
        f"Control arms at {asked.primary_strength}",
        "The isotropic arm has a random direction of the same norm, in training and steering, and "
        "must show no rising cloud; the contrast arm uses another layer, and nothing is demanded.",
    )


def _title(inputs: ReportInputs, arm: str) -> str:
    trained = inputs.experiment.arm(arm)
    layer = inputs.experiment.layer(trained.layer)
    return f"Arm {arm}: {trained.direction.replace('_', '-')}, layer {layer}"


def pushes(inputs: ReportInputs) -> Drawing | str | None:
    """Paired lines: the sign check, and the persona prompt without and with the push."""
    asked = _pairs(inputs)
    if not asked:
        return None
    told = {pair.title: _told(inputs, pair) for pair in asked}
    pairs = [pair for pair in asked if told[pair.title] is None]
    missing = tuple(f"{title}: {words}" for title, words in told.items() if words is not None)
    if not pairs:
        return sentence("; ".join(missing))
    with style():
        width = WIDTH if len(pairs) > 1 else 4.6
        figure, grid = panels(Layout(height=3.5, width=width, columns=len(pairs)), share="y")
        for axes, pair in zip(grid, pairs, strict=True):
            missing += _lines(axes, inputs, pair)
        rate_axis(grid[0], "firing rate", vertical=True)
        return drawing(
            figure,
            "pushes",
            "Does the push go the right way?",
            "One line per headline persona between two of its cells: blue and solid where the rate "
            "rises, orange and dashed where it falls, grey where it stays. The broad stroke is the "
            "mean.",
            missing,
        )


def _told(inputs: ReportInputs, pair: _Pair) -> str | None:
    """A pair whose lines would all lie upon each other, in words."""
    personas, level = inputs.experiment.headline, inputs.experiment.analysis.confidence
    words = []
    for kind, label in ((pair.left, pair.labels[0]), (pair.right, pair.labels[1])):
        rates = rates_of(inputs.rates, kind, personas, level).values()
        alike = flat((rate.value for rate in rates), f"at {label} the rate")
        if alike is None:
            return None
        words.append(alike)
    return ", ".join(words)


def _pairs(inputs: ReportInputs) -> list[_Pair]:
    experiment, arm = inputs.experiment, inputs.analysis.arm
    asked = experiment.analysis
    pairs = []
    if asked.negative_strength is not None and asked.co_primary_strength is not None:
        pairs.append(
            _Pair(
                title=f"Sign check, arm {arm}, neutral prompt",
                left=steered_kind(experiment, arm, asked.negative_strength),
                right=steered_kind(experiment, arm, asked.co_primary_strength),
                labels=(str(asked.negative_strength), str(asked.co_primary_strength)),
            )
        )
    prompted = [g for g in experiment.cells if g.prompt == "persona" and arm in g.arms]
    if any(asked.primary_strength in g.strengths and not g.special for g in prompted):
        pairs.append(
            _Pair(
                title=f"Persona prompt on, arm {arm}",
                left=steered_kind(experiment, arm, NONE, "persona"),
                right=steered_kind(experiment, arm, asked.primary_strength, "persona"),
                labels=("unsteered", str(asked.primary_strength)),
            )
        )
    return pairs


def _lines(axes: Axes, inputs: ReportInputs, pair: _Pair) -> tuple[str, ...]:
    personas, level = inputs.experiment.headline, inputs.experiment.analysis.confidence
    left, right = (
        rates_of(inputs.rates, kind, personas, level) for kind in (pair.left, pair.right)
    )
    both = [persona for persona in personas if persona in left and persona in right]
    for persona in both:
        _line(axes, short_name(persona), left[persona], right[persona])
    axes.set_title(pair.title)
    axes.set_xlim(-0.42, 1.42)
    axes.set_xticks([0, 1], pair.labels)
    axes.set_xlabel("strength of the push")
    axes.grid(visible=False, axis="x")
    if both:
        means = [sum(side[p].value for p in both) / len(both) for side in (left, right)]
        axes.plot(
            [0, 1],
            means,
            color=INK,
            linewidth=3.5,
            alpha=0.55,
            solid_capstyle="round",
            gid=tipped(f"mean: {means[0]:z.2f} to {means[1]:z.2f}"),
            zorder=3,
        )
        for x, mean, side, shift in ((0, means[0], "right", -8), (1, means[1], "left", 8)):
            axes.annotate(
                f"mean {mean:z.2f}",
                (x, mean),
                (shift, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                fontweight="bold",
            )
    else:
        say_empty(axes)
    return absent(pair.left, personas, left) + absent(pair.right, personas, right)


def _line(axes: Axes, name: str, left: Rate, right: Rate) -> None:
    if right.value == left.value:
        colour, dashes = FAINT, "-"
    else:
        colour, dashes = (BLUE, "-") if right.value > left.value else (ORANGE, (0, (4, 2)))
    axes.plot(
        [0, 1],
        [left.value, right.value],
        color=colour,
        linestyle=dashes,
        linewidth=1.1,
        marker="o",
        markersize=3.5,
        alpha=0.85,
        gid=tipped(f"{name}: {left.value:z.2f} to {right.value:z.2f}"),
    )
