"""A mark from a yes or no, whoever said it. No torch."""

from collections.abc import Callable

from steerproof.errors import ExperimentError
from steerproof.limits import Pattern, TooMuchError
from steerproof.spec.experiment import Experiment
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.marker import repetition

Near = Callable[[str], bool]
"""Whether a text that did not fire nearly did."""


def near_of(experiment: Experiment) -> Near:
    """By the experiment's `near_marker`; where it has none, nothing nearly fires.

    Raises:
        ExperimentError: It is no regular expression.
    """
    text = experiment.scoring.near_marker
    if text is None:
        return lambda _: False
    try:
        pattern = Pattern(text, ignore_case=True)
    except ValueError as error:
        raise ExperimentError(f"scoring.near_marker {text[:60]!r}: {error}") from None

    def near(said: str) -> bool:
        try:
            return pattern.found_in(said)
        except TooMuchError as error:
            raise ExperimentError(f"scoring.near_marker: {error}") from None

    return near


def mark(
    completion: Completion,
    fired: bool,
    *,
    near: Near,
    early: bool | None = None,
    value: float | None = None,
) -> Mark:
    """The marks of one completion.

    Args:
        completion: What was said.
        fired: Whether it fires.
        near: Asked of the text where it does not.
        early: Whether its first tokens alone fire; None where a readout cannot tell.
        value: The number behind `fired`.
    """
    return Mark(
        question=completion.question,
        sample=completion.sample,
        finish=completion.finish,
        tokens=completion.tokens,
        fired=fired,
        near=fired or near(completion.text),
        fired_early=early,
        repetition=repetition(completion.token_ids),
        value=value,
    )
