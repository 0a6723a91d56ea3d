"""A mark from a yes or no, whoever said it. No torch."""

from collections.abc import Callable, Sequence

from steerproof.errors import ExperimentError
from steerproof.limits import Pattern, TooMuchError
from steerproof.spec.experiment import Experiment
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion

Near = Callable[[str], bool]
"""Whether a text that did not fire nearly did."""


def near_of(experiment: Experiment) -> Near:
    """By the experiment's `near_marker`; where it has none, nothing nearly fires.

    Raises:
        ExperimentError: It is no regular expression.
    """
    text = experiment.scoring.near_marker
    return (lambda _: False) if text is None else near_by(text)


def near_by(text: str) -> Near:
    """By a regular expression that ignores case; it may take too long for a text, and says so.

    Raises:
        ExperimentError: It is none.
    """
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


def repetition(token_ids: Sequence[int]) -> float | None:
    """Share of token 3-grams that repeat an earlier one: 0 for fresh text, towards 1 for a loop."""
    count = len(token_ids) - 2
    if count < 1:
        return None
    grams = set(zip(token_ids, token_ids[1:], token_ids[2:], strict=False))
    return 1.0 - len(grams) / count
