"""Contradictions in how completions are marked: fields that a readout needs, or does not use."""

from collections.abc import Iterator

from steerproof.limits import Pattern, TooMuchError
from steerproof.spec.experiment import Experiment
from steerproof.spec.problems import Check, Keys, Problem, did_you_mean, shown
from steerproof.spec.scoring import READOUTS

_LONG = "the answer " * 400
"""A text that a pattern has to be through with in its time."""


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
    if pattern is None:
        return
    place: Keys = ("scoring", "pattern")
    try:
        compiled = Pattern(pattern)
        empty, _ = compiled.found_in(""), compiled.found_in(_LONG)
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
    Check(reads={"scoring"}, find=_function),
)
