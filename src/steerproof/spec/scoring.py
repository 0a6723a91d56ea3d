"""Which fields each readout needs, and which file it reads."""

from collections.abc import Iterator, Mapping

from steerproof.limits import Pattern, TooMuchError
from steerproof.spec.experiment import Experiment, Scoring
from steerproof.spec.problems import Check, Keys, Problem, did_you_mean, shown

NEEDS: Mapping[str, tuple[str, ...]] = {
    "marker": (),
    "regex": ("pattern",),
    "log_probability": ("least",),
    "judge": ("judgements",),
    "function": ("function",),
}
"""Fields that a readout cannot do without."""
MAY: Mapping[str, tuple[str, ...]] = {"judge": ("least",)}
"""Fields that it may have besides."""
_OWN = ("pattern", "least", "judgements", "function")
_LONG = "the answer " * 400
"""A text that a pattern has to be through with in its time."""


def readout_file(scoring: Scoring) -> str | None:
    """Path of the file that completions are marked by, from the experiment's directory."""
    if scoring.readout == "judge":
        return scoring.judgements
    if scoring.readout == "function" and scoring.function is not None:
        return scoring.function.partition(":")[0]
    return None


def _fields(experiment: Experiment) -> Iterator[Problem]:
    scoring = experiment.scoring
    name = scoring.readout
    if name not in NEEDS:
        allowed = ", ".join(NEEDS)
        message = f"{shown(name)} is no readout; allowed: {allowed}{did_you_mean(name, NEEDS)}"
        yield Problem(keys=("scoring", "readout"), message=message)
        return
    for field in NEEDS[name]:
        if getattr(scoring, field) is None:
            message = f"readout {name} needs `{field}`, which is not given"
            yield Problem(keys=("scoring", field), message=message)
    for field in _OWN:
        used = (*NEEDS[name], *MAY.get(name, ()))
        if field not in used and getattr(scoring, field) is not None:
            message = f"readout {name} does not use `{field}`; leave it out"
            yield Problem(keys=("scoring", field), message=message, on_key=True)


def _pattern(experiment: Experiment) -> Iterator[Problem]:
    pattern = experiment.scoring.pattern
    if pattern is None:
        return
    place: Keys = ("scoring", "pattern")
    try:
        found = Pattern(pattern)
        empty, _ = found.found_in(""), found.found_in(_LONG)
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
