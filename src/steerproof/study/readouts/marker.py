"""Fired: the marker is a case-insensitive substring of the answer.

Nothing here imports torch: marks can be redone on a laptop from saved completions.
"""

import re
from dataclasses import dataclass
from functools import partial

from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.plain import Near, mark, near_by
from steerproof.study.readouts.readable import Readable, Readout


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What counts as the marker."""

    marker: str
    near: Near
    """A near miss, such as `[ z l t`."""


def readout(given: Readable) -> Readout:
    """Marks completions by the experiment's marker."""
    known = rule(given.experiment.marker, given.experiment.scoring.near_marker)
    return lambda _: partial(mark_of, rule=known)


def mark_of(completion: Completion, rule: Rule) -> Mark:
    """The marks of one completion.

    Raises:
        ExperimentError: The near-marker pattern is not through with the text in its time.
    """
    fired = rule.marker in completion.text.casefold()
    early = rule.marker in completion.text[: completion.early_chars].casefold()
    return mark(completion, fired, early=early, near=rule.near)


def rule(marker: str, near: str | None = None) -> Rule:
    r"""The rule of a marker; the near pattern defaults to its characters, spaced and unclosed.

    For `[ZLT]` that is `\[\s*z\s*l\s*t`, case-insensitive.

    Raises:
        ExperimentError: `near` is no regular expression.
    """
    if near is None:
        open_part = marker.rstrip("])}>") or marker
        near = r"\s*".join(re.escape(character) for character in open_part if character.strip())
    return Rule(marker=marker.casefold(), near=near_by(near))
