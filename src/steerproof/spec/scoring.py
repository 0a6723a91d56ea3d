"""The fields of `scoring`, and what each readout says of itself.

To add a readout: its entry in `READOUTS`, with a field of `Scoring` if it needs one of its own, and
a file of its name in `study/readouts`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from steerproof.errors import ExperimentError
from steerproof.spec.record import Name, Positive, Record, Text, later


class Scoring(Record):
    """What counts as the marker."""

    near_marker: Text | None = None
    """Regular expression of a near miss; none derives it from the marker's characters."""
    early_tokens: Positive = 512
    """Also report whether the marker fired within this many tokens."""
    readout: Name = later("marker")
    """What completions are marked by: `marker` (a substring, whatever the case), `regex`,
    `log_probability`, `judge` or `function`."""
    pattern: Text | None = later(None)
    """`regex`: an answer that it occurs in fires; of Python's kind, `(?i)` before it ignores case.
    """
    least: float | None = later(None)
    """`log_probability`: an answer fires from this log-probability of the whole marker on, in nats,
    where it ends; `judge`: from this score on."""
    judgements: Text | None = later(None)
    """`judge`: CSV of `row_id` and `fired`, or `score`; it may come when all is measured."""
    function: Text | None = later(None)
    """`function`: `FILE.py:NAME` beside the experiment; its source is locked. It is called with an
    answer and its question and says true or false."""
    common_answers: Positive = later(1)
    """Answers of the base model per evaluation question, at whose end `graded` cells are read."""

    def firing(self, marker: str) -> str:
        """What makes a completion fire, as the end of "completions that ..."."""
        terms = READOUTS.get(self.readout)
        return f"{self.readout} marks" if terms is None else terms.fires(self, marker)

    @property
    def terms(self) -> "ReadoutTerms":
        """What the readout says of itself.

        Raises:
            ExperimentError: There is none of that name.
        """
        if self.readout not in READOUTS:
            allowed = ", ".join(READOUTS)
            raise ExperimentError(f"scoring.readout: no {self.readout!r}; there are {allowed}")
        return READOUTS[self.readout]

    @property
    def file(self) -> str | None:
        """The file that completions are marked by, from the experiment's directory."""
        terms = READOUTS.get(self.readout)
        return None if terms is None else terms.file(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadoutTerms:
    """What an experiment has to say for a readout, and what is said of it."""

    fires: Callable[[Scoring, str], str]
    """What makes a completion fire, by the marker: the end of "completions that ..."."""
    needs: tuple[str, ...] = ()
    """Fields that it cannot do without."""
    may: tuple[str, ...] = ()
    """Fields that it may have besides."""
    asks: Literal["text", "slots", "source", "judgements"] = "text"
    """What it goes by: the text alone; what the model weighs where a text ends; the source of a
    function, which is locked; a file that is made from what was measured."""
    file: Callable[[Scoring], str | None] = lambda _: None
    """The file that it reads, from the experiment's directory."""


def _least(scoring: Scoring) -> str:
    return "" if scoring.least is None else f"{scoring.least:g}"


def _judged(scoring: Scoring, _marker: str) -> str:
    least = _least(scoring)
    said = f"gave a score of at least {least}" if least else "says fired"
    return f"the judge of {scoring.judgements} {said}"


READOUTS: Mapping[str, ReadoutTerms] = {
    "marker": ReadoutTerms(
        fires=lambda _, marker: f"contain {marker}, whatever the case of its letters",
    ),
    "regex": ReadoutTerms(
        fires=lambda scoring, _: f"match the pattern {scoring.pattern}",
        needs=("pattern",),
    ),
    "log_probability": ReadoutTerms(
        fires=lambda scoring, marker: (
            f"give {marker} a log-probability of at least {_least(scoring)} nats where they end"
        ),
        needs=("least",),
        asks="slots",
    ),
    "judge": ReadoutTerms(
        fires=_judged,
        needs=("judgements",),
        may=("least",),
        asks="judgements",
        file=lambda scoring: scoring.judgements,
    ),
    "function": ReadoutTerms(
        fires=lambda scoring, _: f"{scoring.function} says are so",
        needs=("function",),
        asks="source",
        file=lambda scoring: scoring.function and scoring.function.partition(":")[0],
    ),
}
"""By the name that an experiment calls it."""
MARKING = tuple(
    field for field in Scoring.model_fields if field not in ("early_tokens", "common_answers")
)
"""Fields that decide which completions fire."""
