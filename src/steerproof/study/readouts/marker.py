"""Scoring: what a completion's text says, without the model.

Nothing here imports torch: marks can be redone on a laptop from saved completions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from steerproof.errors import ExperimentError
from steerproof.limits import Pattern, TooMuchError
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.readable import Readable, Readout


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What counts as the marker."""

    marker: str
    near: Pattern
    """A near miss, such as `[ z l t`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The marks of one completion."""

    fired: bool
    """The marker is a case-insensitive substring."""
    near: bool
    """The near-marker pattern occurs (true whenever the marker itself does)."""
    fired_early: bool
    """Fired within the first tokens (the experiment's `early_tokens`)."""
    repetition: float | None
    """Share of token 3-grams that occurred before in the completion; null below three tokens."""


def readout(given: Readable) -> Readout:
    """Marks completions by the experiment's marker."""
    known = rule(given.experiment.marker, given.experiment.scoring.near_marker)
    return lambda _: partial(mark_of, rule=known)


def mark_of(completion: Completion, rule: Rule) -> Mark:
    """The marks of one completion."""
    said = score(completion.text, completion.token_ids, completion.early_chars, rule)
    return Mark(
        question=completion.question,
        sample=completion.sample,
        finish=completion.finish,
        tokens=completion.tokens,
        fired=said.fired,
        near=said.near,
        fired_early=said.fired_early,
        repetition=said.repetition,
    )


def rule(marker: str, near: str | None = None) -> Rule:
    r"""The rule of a marker; the near pattern defaults to its characters, spaced and unclosed.

    For `[ZLT]` that is `\[\s*z\s*l\s*t`, case-insensitive.

    Raises:
        ExperimentError: `near` is no regular expression.
    """
    if near is None:
        open_part = marker.rstrip("])}>") or marker
        near = r"\s*".join(re.escape(character) for character in open_part if character.strip())
    try:
        pattern = Pattern(near, ignore_case=True)
    except ValueError as error:
        raise ExperimentError(f"scoring.near_marker {near[:60]!r}: {error}") from None
    return Rule(marker=marker.casefold(), near=pattern)


def score(text: str, token_ids: Sequence[int], early_chars: int, rule: Rule) -> Score:
    """Mark one completion.

    Args:
        text: The completion as decoded.
        token_ids: Its tokens, for the repetition measure.
        early_chars: Length of the text that its first `early_tokens` tokens decode to.
        rule: What counts.

    Raises:
        ExperimentError: The near-marker pattern is not through with the text in its time.
    """
    fired = rule.marker in text.casefold()
    try:
        near = fired or rule.near.found_in(text)
    except TooMuchError as error:
        raise ExperimentError(f"scoring.near_marker: {error}") from None
    return Score(
        fired=fired,
        near=near,
        fired_early=rule.marker in text[:early_chars].casefold(),
        repetition=repetition(token_ids),
    )


def repetition(token_ids: Sequence[int]) -> float | None:
    """Share of token 3-grams that repeat an earlier one: 0 for fresh text, towards 1 for a loop."""
    count = len(token_ids) - 2
    if count < 1:
        return None
    grams = {tuple(token_ids[i : i + 3]) for i in range(count)}
    return 1.0 - len(grams) / count
