"""Contradictions in how completions are marked: fields that a readout needs, or does not use."""

from collections.abc import Iterator

from steerproof.limits import Pattern, TooMuchError
from steerproof.spec.experiment import Experiment
from steerproof.spec.problems import Check, Keys, Problem, did_you_mean, shown
from steerproof.spec.scoring import READOUTS

_LONG = "the answer " * 400
"""A text that a pattern has to be through with in its time."""
_DIFFICULT = "a1 " * 700 + "a" * 2_000 + " " * 2_000 + "!"
"""Long runs of one kind of character, which patterns with nested repeats never get through."""


def _fields(experiment: Experiment) -> Iterator[Problem]:
    scoring = experiment.scoring
    name = scoring.readout
    if name not in READOUTS:
        allowed = ", ".join(READOUTS)
        message = f"{shown(name)} is no readout; allowed: {allowed}{did_you_mean(name, READOUTS)}"
        yield Problem(keys=("scoring", "readout"), message=message)
        return
    terms = READOUTS[name]
    for field in terms.needs:
        if getattr(scoring, field) is None:
            message = f"readout {name} needs `{field}`, which is not given"
            yield Problem(keys=("scoring", field), message=message)
    own = dict.fromkeys(field for one in READOUTS.values() for field in one.needs)
    for field in own:
        if field not in (*terms.needs, *terms.may) and getattr(scoring, field) is not None:
            message = f"readout {name} does not use `{field}`; leave it out"
            yield Problem(keys=("scoring", field), message=message, on_key=True)


def _pattern(experiment: Experiment) -> Iterator[Problem]:
    pattern = experiment.scoring.pattern
    if pattern is not None:
        yield from _unusable(("scoring", "pattern"), pattern, _LONG)


def _near_marker(experiment: Experiment) -> Iterator[Problem]:
    pattern, marker = experiment.scoring.near_marker, experiment.marker
    if pattern is None:
        return
    place: Keys = ("scoring", "near_marker")
    unusable = list(_unusable(place, pattern, marker, _DIFFICULT, ignore_case=True))
    yield from unusable
    if not unusable and not Pattern(pattern, ignore_case=True).found_in(marker):
        message = f"{shown(pattern)} does not match the marker {shown(marker)} itself"
        yield Problem(keys=place, message=message)


def _unusable(
    place: Keys, pattern: str, *texts: str, ignore_case: bool = False
) -> Iterator[Problem]:
    """Whether a pattern is none, is not through with these texts in time, or matches anything."""
    try:
        compiled = Pattern(pattern, ignore_case=ignore_case)
        empty, *_ = map(compiled.found_in, ("", *texts))
    except (ValueError, TooMuchError) as error:
        message = f"{shown(pattern)} is no regular expression that can be used: {error}"
        yield Problem(keys=place, message=message)
        return
    if empty:
        yield Problem(keys=place, message=f"{shown(pattern)} matches empty text, so every answer")


def _function(experiment: Experiment) -> Iterator[Problem]:
    named = experiment.scoring.function
    if named is None:
        return
    file, colon, name = named.partition(":")
    inside = not file.startswith(("/", "\\", "~")) and ".." not in file.replace("\\", "/").split(
        "/"
    )
    if not (colon and name.isidentifier() and file.endswith(".py") and inside and ":" not in file):
        yield Problem(
            keys=("scoring", "function"),
            message=f"{shown(named)} names no function; write FILE.py:NAME, the file beside the"
            " experiment or below it",
        )


CHECKS = (
    Check(reads={"scoring"}, find=_fields),
    Check(reads={"scoring"}, find=_pattern),
    Check(reads={"marker", "scoring"}, find=_near_marker),
    Check(reads={"scoring"}, find=_function),
)
