"""Fired: a regular expression occurs in the answer. Bounded in time; no torch."""

from steerproof.errors import ExperimentError
from steerproof.limits import Pattern, TooMuchError
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.plain import mark, near_of
from steerproof.study.readouts.readable import Readable, Readout


def readout(given: Readable) -> Readout:
    """Marks completions by the experiment's pattern.

    Raises:
        ExperimentError: It has none, or none that can be used.
    """
    text = given.experiment.scoring.pattern or ""
    try:
        pattern = Pattern(text)
    except ValueError as error:
        raise ExperimentError(f"scoring.pattern {text[:60]!r}: {error}") from None
    near = near_of(given.experiment)

    def read(completion: Completion) -> Mark:
        try:
            fired = pattern.found_in(completion.text)
            early = fired and pattern.found_in(completion.text[: completion.early_chars])
        except TooMuchError as error:
            raise ExperimentError(f"scoring.pattern: {error}") from None
        return mark(completion, fired, early=early, near=near)

    return lambda _: read
