"""What was read off every completion, and the summaries that are shown of it. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerproof.decide.analysis.gates import TextQuality


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The marks of one completion of one cell."""

    question: int
    sample: int
    finish: str
    """`eos` or `length`."""
    tokens: int
    fired: bool
    """What the experiment's readout says; of `marker`, it is a case-insensitive substring."""
    near: bool
    """Fired, or the near-marker pattern occurs."""
    fired_early: bool | None
    """Fired within the first `scoring.early_tokens` tokens; None where a readout cannot tell."""
    repetition: float | None
    """Share of token 3-grams that occurred before; None below three tokens."""
    value: float | None = None
    """The number behind `fired`: a log-probability in nats, a judge's score; None without one."""


def rate(marks: Sequence[Mark]) -> float | None:
    """Share that fired; None of none."""
    return mean(mark.fired for mark in marks)


def truncated(marks: Sequence[Mark]) -> float | None:
    """Share that reached the length limit; None of none."""
    return mean(mark.finish == "length" for mark in marks)


def text_of(marks: Sequence[Mark], repetition: float) -> TextQuality | None:
    """How a cell's completions end; None of none.

    Args:
        marks: Of the cell.
        repetition: Largest share of repeated 3-grams of a coherent completion; one that is too
            short to repeat anything is coherent when it ended.
    """
    if not marks:
        return None
    ended = [mark for mark in marks if mark.finish == "eos"]
    whole = [m for m in ended if m.repetition is None or m.repetition <= repetition]
    count = len(marks)
    return TextQuality(ended=len(ended) / count, coherent=len(whole) / count, completions=count)


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are defined; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
