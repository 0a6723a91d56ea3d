"""How the adapters learnt: losses, and the push that training really gave."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from steerproof.decide.report.figures.canvas import Drawing, Layout, drawing, panels, style
from steerproof.decide.report.figures.marks import say_empty, tipped
from steerproof.decide.report.figures.palette import BLUE, FAINT, INK, QUIET
from steerproof.decide.report.inputs import ReportInputs, TrainingSummary, short_name
from steerproof.spec.strength import PUSH_TOLERANCE

_EXACT = 0.01
"""Pushes that are all nearer to what was asked are told in a sentence."""
POINTS = 150
"""Most points of one loss curve; longer ones are averaged over neighbouring steps."""


def _by_arm(inputs: ReportInputs) -> dict[str, list[TrainingSummary]]:
    """Summaries of the adapters that were trained here, in the experiment's order of arms."""
    names = [arm.name for arm in inputs.experiment.arms]
    known = sorted(
        (s for s in inputs.detail.training if s.losses), key=lambda s: names.index(s.arm)
    )
    return {arm: list(group) for arm, group in groupby(known, key=lambda s: s.arm)}


def losses(inputs: ReportInputs) -> Drawing | None:
    """Loss against step for every adapter, one panel per arm."""
    arms = {
        arm: [(short_name(one.persona), one.losses) for one in summaries]
        for arm, summaries in _by_arm(inputs).items()
    }
    return loss_panels(arms) if arms else None


def loss_panels(arms: Mapping[str, Sequence[tuple[str, Sequence[float]]]]) -> Drawing:
    """Loss against step, one panel per arm.

    Args:
        arms: Of each arm its adapters: a name, and a loss for every step.
    """
    with style():
        figure, grid = panels(Layout(height=2.6, left=0.65, columns=len(arms), gap=0.08))
        for axes, (arm, adapters) in zip(grid, arms.items(), strict=True):
            _curves(axes, adapters)
            axes.set_title(f"Arm {arm}")
            axes.set_xlabel("step (updates)")
        grid[0].set_ylabel("loss (nats per token)")
        grid[0].set_ylim(bottom=0)
        return drawing(
            figure,
            "losses",
            "Training loss by arm",
            "Thin lines are adapters, one per persona; the broad line is their median.",
        )


def _curves(axes: Axes, adapters: Sequence[tuple[str, Sequence[float]]]) -> None:
    for name, losses in adapters:
        words = f"{name}: {losses[-1]:.3f} at the end"
        axes.plot(*thinned(losses), color=BLUE, alpha=0.4, linewidth=0.8, gid=tipped(words))
    length = min(len(losses) for _, losses in adapters)
    middle = np.median([losses[:length] for _, losses in adapters], axis=0)
    axes.plot(*thinned(middle), color=INK, linewidth=1.8)
    axes.tick_params(length=3)


def thinned(losses: Sequence[float] | Float[np.ndarray, " steps"]) -> tuple[np.ndarray, np.ndarray]:
    """Middle step and mean loss of at most `POINTS` runs of successive steps.

    A long training becomes a smooth line that a page can hold; a short one stays as it is.
    """
    runs = np.array_split(np.asarray(losses, dtype=float), min(len(losses), POINTS))
    places = np.array_split(np.arange(1.0, len(losses) + 1), len(runs))
    return np.array([p.mean() for p in places]), np.array([run.mean() for run in runs])


def achieved(inputs: ReportInputs) -> Drawing | str | None:
    """The push that training gave, as a share of the one asked for; None without directions."""
    pushed = [s for s in inputs.detail.training if s.asked is not None]
    if not pushed:
        return None
    arms = list(dict.fromkeys(s.arm for s in pushed))
    missing = tuple(
        f"{s.arm}, {short_name(s.persona)}: achieved push not measured"
        for s in pushed
        if s.achieved is None
    )
    shares = [(s, s.achieved / s.asked) for s in pushed if s.asked and s.achieved is not None]
    worst = max((abs(share - 1) for _, share in shares), default=0.0)
    if shares and not missing and worst < _EXACT:
        return f"Every adapter got the push that was asked for, within {worst:.2%}."
    with style():
        height = 0.8 + 0.36 * len(arms)
        figure, (axes,) = panels(Layout(height=height, width=4.6, left=0.95, bottom=0.48, top=0.2))
        axes.axvspan(1 - PUSH_TOLERANCE, 1 + PUSH_TOLERANCE, color=FAINT, alpha=0.22, linewidth=0)
        axes.axvline(1, color=QUIET, linewidth=0.9)
        for summary, share in shares:
            words = f"{short_name(summary.persona)}: {share:.4f}"
            look: dict[str, Any] = {"alpha": 0.6, "markersize": 5, "markeredgewidth": 0}
            axes.plot(
                [share], [arms.index(summary.arm)], "o", color=BLUE, gid=tipped(words), **look
            )
        if not shares:
            say_empty(axes)
        _push_axes(axes, arms, [share for _, share in shares])
        return drawing(
            figure,
            "achieved",
            "Achieved push in training, as a share of the one asked for",
            "One point per adapter. The shaded band is the tolerance of "
            f"{PUSH_TOLERANCE:.0%}; training fails outside it.",
            missing,
        )


def _push_axes(axes: Axes, arms: Sequence[str], shares: Sequence[float]) -> None:
    reach = max([1.6 * PUSH_TOLERANCE, *(1.1 * abs(share - 1) for share in shares)])
    axes.set_xlim(1 - reach, 1 + reach)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_yticks(range(len(arms)), [f"Arm {arm}" for arm in arms])
    axes.set_xlabel("achieved push over the one asked for")
    axes.grid(visible=False, axis="y")
    axes.tick_params(length=3)
