"""A sweep: one experiment at every combination of values of some of its fields.

    steerproof sweep zlt --over layers.primary=1,2,3 --over seed=0..4

Its runs are exploratory, and each says so in its experiment, which is locked. Each also measures
the tested arm along fresh random directions, so that these can go through the same selection.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from steerproof.errors import ExperimentError
from steerproof.spec.problems import shown
from steerproof.spec.settings import Setting, parse_setting, with_settings
from steerproof.spec.yaml_io import Loaded

MOST = 256
"""Most runs of one sweep."""
_SEEDS = ("seed", "seeds")
"""Fields that repeat an experiment: effects are averaged over them, never chosen among."""
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_OPEN, _CLOSE = "[{(", "]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One field and the values that it takes."""

    place: str
    values: tuple[str, ...]

    @property
    def repeats(self) -> bool:
        """It is a seed."""
        return self.place in _SEEDS


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRun:
    """One run of a sweep."""

    settings: tuple[Setting, ...]
    """One an axis."""
    loaded: Loaded
    """The experiment with them."""

    @property
    def chosen(self) -> dict[str, str]:
        """The settings that one can choose among, by place."""
        return {s.place: s.text for s in self.settings if s.place not in _SEEDS}


def parse_axis(text: str) -> Axis:
    """Read `PLACE=VALUE,VALUE,...` or `PLACE=0..4`, both ends included.

    Raises:
        ExperimentError: It is none, or names a value twice.
    """
    setting = parse_setting(text)
    values: list[str] = []
    for part in _split(setting.text):
        span = _RANGE.fullmatch(part)
        if span is None:
            values.append(part)
            continue
        low, high = int(span[1]), int(span[2])
        if not low <= high < low + MOST:
            raise ExperimentError(
                f"--over {text}: {part} is no range; write LOW..HIGH of at most {MOST} numbers"
            )
        values += [str(number) for number in range(low, high + 1)]
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise ExperimentError(f"--over {text}: {shown(twice)} stands there twice")
    if not all(values):
        raise ExperimentError(f"--over {text}: a value is empty")
    return Axis(place=setting.place, values=tuple(values))


def _split(text: str) -> list[str]:
    """At commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in _OPEN) - (character in _CLOSE)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def asked_runs(
    loaded: Loaded, axes: Sequence[Axis], draws: int, fixed: Sequence[Setting] = ()
) -> tuple[AskedRun, ...]:
    """Every run of a sweep, checked; the last axis changes fastest.

    Args:
        loaded: The experiment.
        axes: What is varied.
        draws: Random directions that go through the same selection; 0 leaves them out.
        fixed: Other fields that are set in all of them.

    Raises:
        ExperimentError: There are no axes or too many runs; a value does not fit; what every run
            is compared by would differ between them.
    """
    places = [axis.place for axis in axes]
    if not axes or len(set(places)) < len(places):
        raise ExperimentError("a sweep needs --over PLACE=VALUES, each place once")
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST:
        raise ExperimentError(f"{count} runs; a sweep has at most {MOST}")
    fixed = (*fixed, *_shared_data(loaded, axes, fixed))
    runs = tuple(
        _asked(loaded, axes, values, draws, fixed)
        for values in product(*(axis.values for axis in axes))
    )
    compared = {
        (run.loaded.experiment.questions.evaluation, run.loaded.experiment.headline) for run in runs
    }
    if len(compared) > 1:
        raise ExperimentError(
            "the runs of a sweep are compared by the same personas on the same questions, and"
            f" --over {', '.join(places)} changes these; run the experiments one by one"
        )
    return runs


def _asked(
    loaded: Loaded,
    axes: Sequence[Axis],
    values: Sequence[str],
    draws: int,
    fixed: Sequence[Setting],
) -> AskedRun:
    settings = tuple(
        Setting(place=axis.place, text=value) for axis, value in zip(axes, values, strict=True)
    )
    made, _ = with_settings(loaded, (*fixed, *settings))
    whole, _ = with_settings(made, _additions(made, [axis.place for axis in axes], draws))
    return AskedRun(settings=settings, loaded=whole)


def _shared_data(
    loaded: Loaded, axes: Sequence[Axis], fixed: Sequence[Setting]
) -> tuple[Setting, ...]:
    """Runs of several seeds have the same answers, rows and random directions, unless told not to.

    Otherwise a draw of a random direction would be another vector in each seed, and its effect,
    a mean over seeds, one over vectors: no fair rival of the one direction that was trained on.
    """
    places = {axis.place for axis in axes} | {setting.place for setting in fixed}
    if "data_seed" in places or not any(axis.place == "seed" for axis in axes):
        return ()
    common, _ = with_settings(loaded, fixed)
    return (Setting(place="data_seed", text=str(common.experiment.drawing_seed)),)


def _additions(made: Loaded, places: Sequence[str], draws: int) -> list[Setting]:
    """What makes an experiment a run of a sweep."""
    experiment = made.experiment
    words = f"one run of a sweep over {', '.join(places)}"
    title = f"Exploratory ({words}): {experiment.title}"
    added = [
        Setting(place="exploratory", text=f"'{words}'"),
        Setting(place="title", text="'" + title.replace("'", "''") + "'"),
    ]
    analysis = experiment.analysis
    if draws:
        grid = (
            f"{{arms: ['{analysis.arm}'], prompt: neutral, direction: isotropic, draws: {draws},"
            f" strengths: ['{analysis.primary_strength}']}}"
        )
        added.append(Setting(place=f"cells[{len(experiment.cells)}]", text=grid))
    return added
