"""The first screen in words: the three answers, and what stands against them."""

from collections.abc import Iterator
from dataclasses import dataclass

from steerproof.decide.analysis.kills import criteria
from steerproof.decide.report import wording
from steerproof.decide.report.inputs import ReportInputs

_SIGNS = {"supported": "✓", "refuted": "✕", "inconclusive": "?", "unknown": "–"}
_LEADS = {
    "SUPPORTED": "The hypothesis is supported",
    "REFUTED": "The hypothesis is refuted",
    "INCONCLUSIVE": "This run does not decide the hypothesis",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One answer."""

    question: str
    word: str
    tone: str
    """`supported`, `refuted`, `inconclusive` or `unknown`: shape and colour of its sign."""
    text: str
    """Why, with numbers."""

    @property
    def sign(self) -> str:
        """The sign before the word."""
        return _SIGNS[self.tone]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing that stands against the result."""

    what: str
    finding: str
    remedy: str = ""


def cards(inputs: ReportInputs) -> tuple[Card, ...]:
    """As registered; the ranking; the direction and the prompt."""
    analysis = inputs.analysis
    registered = Card(
        question="As registered",
        word=analysis.verdict,
        tone=analysis.verdict.lower(),
        text=f"{_LEADS[analysis.verdict]}: {wording.with_meanings(analysis.reason)}.",
    )
    ranking = Card(
        question="The ranking of the personas",
        word="NOT JUDGED",
        tone="unknown",
        text="This analysis has no gates: whether this rig could have shown a ranking at all is "
        "not known.",
    )
    direction = Card(
        question="The direction, and the prompt",
        word="NOT MEASURED",
        tone="unknown",
        text="No cell puts an adapter under the direction of another persona, so it was not asked.",
    )
    return registered, ranking, direction


def against(inputs: ReportInputs) -> Iterator[Point]:
    """What a reader must know before believing: changes, kills, serious objections."""
    if inputs.lock is None:
        yield Point(
            what="Not registered",
            finding="there is no lock, so read this as exploration",
        )
    elif inputs.deviations:
        count = len(inputs.deviations)
        times = "once" if count == 1 else f"{count} times"
        yield Point(
            what="Changed",
            finding=f"the experiment was changed {times} after it was locked; see Registration",
        )
    if inputs.analysis.magnitude_bound:
        yield Point(
            what="Magnitude-bound",
            finding="the arm passes at one of the two strengths only",
        )
    yield from _kills(inputs)
    for note in inputs.analysis.notes:
        yield Point(what="Table", finding=note)
    for objection in inputs.objections:
        if objection["severity"] == "serious":
            yield Point(
                what=objection["code"].replace("_", " ").capitalize(),
                finding=objection["finding"],
                remedy=objection["remedy"],
            )


def _kills(inputs: ReportInputs) -> Iterator[Point]:
    results = inputs.analysis.tested.kills
    for criterion in criteria():
        result = results.get(criterion.name)
        if result is None or result.fired is False:
            continue
        state = "fired" if result.fired else f"undecided: {result.reason}"
        limit = wording.symbols(criterion.fires_when(inputs.experiment.analysis))
        yield Point(
            what=f"Kill {criterion.name.replace('_', ' ')}",
            finding=f"{state}; {criterion.meaning} (it fires when {limit})",
        )


def notes(inputs: ReportInputs) -> tuple[Point, ...]:
    """The objections that are not serious."""
    return tuple(
        Point(
            what=objection["code"].replace("_", " ").capitalize(),
            finding=objection["finding"],
            remedy=objection["remedy"],
        )
        for objection in inputs.objections
        if objection["severity"] != "serious"
    )
