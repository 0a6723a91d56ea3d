"""rho of every arm with its intervals, and the bootstrap distributions behind them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from steerproof.decide.analysis.records import Histogram, StrengthResult
from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import guide, say_empty, tipped
from steerproof.decide.report.figures.palette import BLUE, GREEN, INK, ORANGE, QUIET, SERIES
from steerproof.decide.report.figures.ranking import tested_arms
from steerproof.decide.report.inputs import ReportInputs
from steerproof.decide.report.wording import bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One arm at one strength."""

    label: str
    result: StrengthResult


def rows(inputs: ReportInputs) -> Iterator[_Row]:
    """Every estimate of the analysis, arms in the experiment's order, the tested arm first."""
    arms, first = inputs.analysis.arms, inputs.analysis.arm
    for arm in sorted(arms, key=lambda name: name != first):
        for result in arms[arm].strengths:
            yield _Row(label=f"{arm}, {result.strength}", result=result)


def estimates(inputs: ReportInputs) -> Drawing:
    """Spearman's rho of every arm at both strengths, with every interval."""
    lines = list(rows(inputs))
    threshold = inputs.experiment.analysis.thresholds.rho
    with style():
        height = 0.95 + 0.36 * max(len(lines), 1)
        figure, (axes,) = panels(Layout(height=height, width=4.6, left=1.22, bottom=0.5, top=0.3))
        _rho_axis(axes, threshold)
        for place, row in enumerate(lines):
            _estimate(axes, place, row.result)
        axes.set_yticks(range(len(lines)), [row.label for row in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        if not lines:
            say_empty(axes)
        return drawing(
            figure,
            "estimates",
            "Spearman's rho of steered rate and bridge, every arm",
            "Point: rho, round where the arm passes and square where it does not. Broad bar: "
            "registered interval (these personas, questions resampled). Thin bar: two-level "
            "interval (personas in general). Brackets: range with one persona left out. To pass, "
            f"the point must reach {threshold:g} and the broad bar must lie right of 0.",
            tuple(f"{row.label}: {row.result.reason}" for row in lines if row.result.reason),
        )


def _rho_axis(axes: Axes, threshold: float) -> None:
    axes.set_xlim(-1.04, 1.04)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    axes.set_xlabel("Spearman's ρ with the bridge")
    axes.tick_params(length=3)
    guide(axes, 0.0, "0")
    guide(axes, threshold, f"threshold {threshold:g}", strong=True)


def _estimate(axes: Axes, y: int, result: StrengthResult) -> None:
    colour = BLUE if result.passes else ORANGE
    if result.two_level is not None:
        (line,) = axes.plot(result.two_level, [y, y], color=QUIET, linewidth=1.1)
        line.set_label("ends of the two-level interval")
    if result.interval is not None:
        (line,) = axes.plot(
            result.interval, [y, y], color=colour, linewidth=5, alpha=0.55, solid_capstyle="butt"
        )
        line.set_label("ends of the registered interval")
    for end, sign in zip(result.leave_one_out or (), ("[", "]"), strict=False):
        axes.annotate(sign, (end, y), ha="center", va="center", fontsize=10, color=INK)
    if result.rho is None:
        axes.annotate(
            "undefined", (0, y), (8, 0), textcoords="offset points", va="center", color=QUIET
        )
        return
    words = f"rho {result.rho:+z.3f}, registered {bounds(result.interval)}"
    axes.plot(
        [result.rho],
        [y],
        "o" if result.passes else "s",
        color=colour,
        markersize=6.5,
        markeredgewidth=0,
        zorder=5,
        gid=tipped(words),
    )


def bootstrap(inputs: ReportInputs) -> Drawing:
    """Bootstrap distributions of rho at the primary strength: registered and two-level."""
    asked = inputs.experiment.analysis
    results = {
        arm: inputs.analysis.arms[arm].primary
        for arm in tested_arms(inputs)
        if arm in inputs.analysis.arms
    }
    missing: tuple[str, ...] = ()
    with style():
        figure, grid = panels(Layout(height=2.75, top=0.55, columns=2, gap=0.08))
        for axes, (words, distribution) in zip(grid, _DISTRIBUTIONS.items(), strict=True):
            drawn = 0
            for place, (arm, result) in enumerate(results.items()):
                histogram = distribution(result)
                if histogram is None:
                    missing += (f"arm {arm}, {words}: {result.reason}",)
                else:
                    _histogram(axes, histogram, result.rho, f"Arm {arm}", place)
                    drawn += 1
            axes.set_title(words, pad=18)
            _rho_axis(axes, asked.thresholds.rho)
            if not drawn:
                say_empty(axes, "no interval")
            else:
                axes.legend(loc="upper left")
        grid[0].set_ylabel("resamples (% of all)")
        grid[0].yaxis.set_major_locator(MaxNLocator(4, integer=True))
        grid[0].set_ylim(bottom=0)
        return drawing(
            figure,
            "bootstrap",
            f"Bootstrap distributions of rho at {asked.primary_strength}",
            "Left: questions resampled inside each persona, so it speaks of these personas only. "
            "Right: personas resampled too, so it speaks of personas in general. Marks on the "
            "axis are the point estimates.",
            missing,
        )


_DISTRIBUTIONS: Mapping[str, Callable[[StrengthResult], Histogram | None]] = {
    "Registered: these personas": lambda result: result.distribution,
    "Two-level: personas in general": lambda result: result.two_level_distribution,
}


def _histogram(axes: Axes, histogram: Histogram, rho: float | None, label: str, place: int) -> None:
    total = sum(histogram.counts) or 1
    shares = [100 * count / total for count in histogram.counts]
    colour = (BLUE, ORANGE, GREEN)[place]
    axes.stairs(shares, histogram.edges, fill=True, color=colour, alpha=0.3, linewidth=0)
    axes.stairs(
        shares,
        histogram.edges,
        color=colour,
        linewidth=1.2,
        label=label,
        linestyle="-" if place == 0 else (0, (3, 1.2)),
    )
    if rho is not None:
        axes.plot(
            [rho],
            [0],
            SERIES[0 if place == 0 else 2][1],
            color=colour,
            clip_on=False,
            markersize=6,
            zorder=6,
            gid=tipped(f"{label}: rho {rho:+z.3f}"),
        )
