"""The rule's error rates as figures and as a table."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.palette import INK, SERIES
from steerproof.decide.review.power import Coverage, OperatingCharacteristics, Point

Lines = Mapping[str, Sequence[float]]


def error_rates(found: OperatingCharacteristics) -> Drawing:
    """Verdicts, and coverage of the intervals, against the true correlation."""
    points = found.points
    rhos = [point.rho for point in points]
    verdicts = {
        name: [point.verdicts[name] for point in points] for name in ("SUPPORTED", "REFUTED")
    }
    verdicts["INCONCLUSIVE"] = [point.verdicts["INCONCLUSIVE"] for point in points]
    intervals = {
        "registered, with the measured bridge": [share(p.registered_measured) for p in points],
        "registered, true rates of these": [share(p.registered_these) for p in points],
        "two-level, for personas in general": [share(p.two_level_general) for p in points],
        "registered, for personas in general": [share(p.registered_general) for p in points],
    }
    with style():
        figure, (left, right) = panels(
            Layout(height=3.4, columns=2, gap=0.22, bottom=1.2, left=0.6), share="x"
        )
        curves(left, rhos, verdicts)
        left.axhline(found.power, color=INK, linewidth=0.8, linestyle=":")
        left.set_title("Verdicts")
        left.set_ylabel("share of experiments")
        curves(right, rhos, intervals)
        right.axhline(found.trial.analysis.confidence, color=INK, linewidth=0.8, linestyle=":")
        right.set_title(f"Coverage of the {found.trial.analysis.confidence:.0%} intervals")
        right.set_ylabel("share that contain the truth")
        design = found.trial.design
        return drawing(
            figure,
            "power-error-rates",
            f"How often the rule is right with {design.personas} personas",
            "Left: share of simulated experiments with each verdict; the dotted line is a power "
            "of 0.8. Right: share of the intervals that contain the correlation they are compared "
            "with; the dotted line is what they promise.",
        )


def sizes(families: Mapping[str, Mapping[str, OperatingCharacteristics]]) -> Drawing:
    """Power against the true correlation, one panel per quantity that varies."""
    with style():
        figure, grid = panels(
            Layout(height=3.4, columns=len(families), gap=0.12, bottom=1.35, left=0.6)
        )
        for axes, (title, members) in zip(grid, families.items(), strict=True):
            rhos = [point.rho for point in next(iter(members.values())).points]
            lines = {
                label: [point.verdicts["SUPPORTED"] for point in found.points]
                for label, found in members.items()
            }
            curves(axes, rhos, lines)
            axes.axhline(0.8, color=INK, linewidth=0.8, linestyle=":")
            axes.set_title(title)
        grid[0].set_ylabel("share SUPPORTED")
        return drawing(
            figure,
            "power-sizes",
            "What more personas, questions or samples buy",
            "Share of simulated experiments that end in SUPPORTED; the dotted line is a power "
            "of 0.8. Only the named quantity varies; the others are 10 personas, 20 questions and "
            "5 samples.",
        )


def curves(axes: Axes, rhos: Sequence[float], lines: Lines) -> None:
    """Shares against the true correlation, told apart by colour and marker."""
    for (label, values), (colour, marker) in zip(lines.items(), SERIES, strict=False):
        axes.plot(rhos, values, color=colour, marker=marker, markersize=4, label=label)
    axes.set_xlabel("true Spearman correlation")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.02, 1.02)
    columns = 2 if len(lines) > 3 else 1
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)


def share(found: Coverage) -> float:
    """A coverage for drawing; NaN leaves a gap."""
    return float("nan") if found.share is None else found.share


def error_table(found: OperatingCharacteristics) -> str:
    """Verdicts, kills and coverage by true correlation, as a Markdown table."""
    names = list(found.points[0].kills)
    head = ["true rho", "SUPPORTED", "REFUTED", "INCONCLUSIVE", *names]
    head += ["registered covers the correlation with the measured bridge"]
    head += ["registered covers the true rates of these", "registered covers all"]
    head += ["two-level covers all"]
    rows = [head, ["---:"] * len(head)]
    for point in found.points:
        covered = (
            point.registered_measured,
            point.registered_these,
            point.registered_general,
            point.two_level_general,
        )
        cells = [f"{point.rho:g}", *(percent(v) for v in point.verdicts.values())]
        cells += [percent(point.kills[name]) for name in names]
        cells += ["-" if c.share is None else f"{c.share:.2f}" for c in covered]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def size_table(members: Mapping[str, OperatingCharacteristics]) -> str:
    """False SUPPORTED and minimum detectable correlation of every design, as a Markdown table."""
    head = ["design", "SUPPORTED at rho 0", "at 0.6", "at 0.8", "at 0.95", "minimum detectable rho"]
    rows = [head, ["---", *["---:"] * 5]]
    for label, found in members.items():
        by_rho = {point.rho: point for point in found.points}
        shares = [supported(by_rho.get(rho)) for rho in (0.0, 0.6, 0.8, 0.95)]
        least = found.minimum_detectable_rho
        rows.append([label, *shares, "none up to 0.95" if least is None else f"{least:.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def supported(point: Point | None) -> str:
    """The share SUPPORTED with its Monte-Carlo error."""
    if point is None:
        return "-"
    value = point.verdicts["SUPPORTED"]
    error = math.sqrt(value * (1 - value) / point.simulations)
    return f"{percent(value)} ± {100 * error:.1f}"


def percent(value: float) -> str:
    """A share in percent with one decimal."""
    return f"{100 * value:.1f}%"
