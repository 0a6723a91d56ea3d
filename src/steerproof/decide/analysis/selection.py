"""The best of several settings, read where it was not chosen, and what chance makes of the same.

The effect of a setting is the mean over headline personas of the tested arm's firing rate pushed at
the primary strength, minus its rate unpushed, both under the neutral prompt. The questions are
split in two halves: what is best on one half is read on the other, both ways round, and the mean
of the two readings is reported. Fresh random directions, given to the same adapters, go through
the same selection one by one: each draw chooses its own best setting on one half and is read on the
other. Seeds are no setting that one chooses: effects are averaged over them first.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Annotated

from pydantic import Field

from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.rates import RateTable, lookup
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import NONE

Setting = Mapping[str, str]
"""Values by place, as they were typed."""
Effect = Annotated[float, Field(ge=-1, le=1)]
"""A rate minus a rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptRun:
    """One run of a sweep."""

    setting: Setting
    """What is chosen among; without seeds."""
    experiment: Experiment
    """As it was run."""
    table: RateTable
    """What it measured; empty if it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Of one setting along one direction, on the questions named; None where a cell is missing."""

    first: Effect | None
    second: Effect | None
    whole: Effect | None
    """On all questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The best setting on one half of the questions."""

    setting: Setting
    there: Effect
    """Effect on the half on which it was chosen: too high on average."""
    held_out: Effect
    """Effect on the other half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Chosen on each half and read on the other."""

    on_first: Chosen
    on_second: Chosen
    best_of_all: Effect
    """The largest effect on all questions: what one reports who looks at the table alone."""

    @property
    def held_out(self) -> float:
        """Mean of the two readings."""
        return (self.on_first.held_out + self.on_second.held_out) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """A setting in the table."""

    setting: Setting
    runs: int
    """Seeds that it was run with."""
    effects: Effects
    """Along the arm's own direction."""
    null: tuple[Effect | None, ...]
    """Along each draw of a random direction, on all questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a sweep found."""

    rows: tuple[SettingRow, ...]
    """One a setting, in order."""
    chosen: Selected | None
    """None where fewer than two settings were measured whole, or there is one question."""
    null: tuple[Selected, ...]
    """The same selection of every draw of random directions."""

    @property
    def p(self) -> float | None:
        """Rank of the held-out effect among the random directions', (r + 1) / (n + 1)."""
        if self.chosen is None or not self.null:
            return None
        above = sum(drawn.held_out >= self.chosen.held_out for drawn in self.null)
        return (above + 1) / (len(self.null) + 1)


def halves(questions: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places of the questions of each half: by the sha256 of their text, so order plays no part."""
    order = sorted(
        range(len(questions)), key=lambda i: hashlib.sha256(questions[i].encode()).hexdigest()
    )
    middle = len(order) // 2
    return tuple(sorted(order[:middle])), tuple(sorted(order[middle:]))


def select(points: Sequence[SweptRun], draws: int) -> Selection:
    """Choose among the settings of a sweep.

    Args:
        points: The runs; those of one setting differ in their seed alone.
        draws: Random directions that each of them measured.
    """
    groups: dict[tuple[tuple[str, str], ...], list[SweptRun]] = {}
    for point in points:
        groups.setdefault(tuple(point.setting.items()), []).append(point)
    every = list(groups.values())
    own = [_mean([_effects(point, None) for point in group]) for group in every]
    random = [
        [_mean([_effects(point, draw) for point in group]) for group in every]
        for draw in range(1, draws + 1)
    ]
    settings = [group[0].setting for group in every]
    rows = tuple(
        SettingRow(
            setting=settings[i],
            runs=len(group),
            effects=own[i],
            null=tuple(drawn[i].whole for drawn in random),
        )
        for i, group in enumerate(every)
    )
    selected = [_selected(settings, drawn) for drawn in random]
    return Selection(
        rows=rows,
        chosen=_selected(settings, own),
        null=tuple(one for one in selected if one is not None),
    )


def _effects(point: SweptRun, draw: int | None) -> Effects:
    """Of one run, along the arm's own direction or a random one."""
    experiment = point.experiment
    analysis, arm = experiment.analysis, experiment.analysis.arm
    steered = steered_kind(experiment, arm, analysis.primary_strength)
    if draw is not None:
        steered = replace(steered, direction="isotropic", draw=draw)
    unsteered = steered_kind(experiment, arm, NONE)
    first, second = halves(experiment.questions.evaluation)

    def effect(places: Sequence[int]) -> float | None:
        pushed, still = (_rate(point, kind, places) for kind in (steered, unsteered))
        return None if pushed is None or still is None else pushed - still

    return Effects(first=effect(first), second=effect(second), whole=effect((*first, *second)))


def _rate(point: SweptRun, kind: CellKind, places: Sequence[int]) -> float | None:
    """Mean over headline personas of a cell's rate on some questions; None if one is missing."""
    wanted = {str(place) for place in places}
    rates: list[float] = []
    for persona in point.experiment.headline:
        counts = lookup(point.table, kind, persona)
        if counts is None or counts.questions is None:
            return None
        asked = [i for i, question in enumerate(counts.questions) if question in wanted]
        total = sum(counts.total[i] for i in asked)
        if not total:
            return None
        rates.append(sum(counts.fired[i] for i in asked) / total)
    return fmean(rates)


def _mean(effects: Sequence[Effects]) -> Effects:
    """Over seeds; None as soon as one is."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None

    return Effects(
        first=mean([one.first for one in effects]),
        second=mean([one.second for one in effects]),
        whole=mean([one.whole for one in effects]),
    )


def _selected(settings: Sequence[Setting], effects: Sequence[Effects]) -> Selected | None:
    """The choice among those that were measured whole; of equals the earlier one."""
    whole = [
        (setting, one.first, one.second, one.whole)
        for setting, one in zip(settings, effects, strict=True)
        if one.first is not None and one.second is not None and one.whole is not None
    ]
    if len(whole) < 2:
        return None
    on_first = max(whole, key=lambda one: one[1])
    on_second = max(whole, key=lambda one: one[2])
    return Selected(
        on_first=Chosen(setting=on_first[0], there=on_first[1], held_out=on_first[2]),
        on_second=Chosen(setting=on_second[0], there=on_second[2], held_out=on_second[1]),
        best_of_all=max(one[3] for one in whole),
    )
