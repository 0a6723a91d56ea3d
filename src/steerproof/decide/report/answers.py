"""The first screen in words: the three answers, and what stands against them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from steerproof.decide.analysis.answer_records import Ranking, Reads
from steerproof.decide.analysis.answer_words import reading, three_lines
from steerproof.decide.analysis.gates import Gate
from steerproof.decide.analysis.kills import criteria
from steerproof.decide.report import wording
from steerproof.decide.report.inputs import ReportInputs
from steerproof.decide.report.plainly import RANKED, READ, RULE, UNREAD

_SIGNS = {"supported": "✓", "refuted": "✕", "inconclusive": "?", "unknown": "–"}
_MOST_ABSENT = 4
"""Missing cells that are named on the first screen; the rest stand under Ranking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCard:
    """One answer."""

    question: str
    word: str
    tone: str
    """`supported`, `refuted`, `inconclusive` or `unknown`: shape and colour of its sign."""
    plain: str
    """What that is, for a reader who knows neither statistics nor the words of this field."""
    text: str
    """Why, with numbers."""

    @property
    def sign(self) -> str:
        """The sign before the word."""
        return _SIGNS[self.tone]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """One thing that stands against the result."""

    what: str
    finding: str
    remedy: str = ""


_TONES = {
    Ranking.SUPPORTED: "supported",
    Ranking.REFUTED: "refuted",
    Ranking.INCONCLUSIVE: "inconclusive",
    Ranking.CANNOT_ANSWER: "inconclusive",
    Reads.OWN: "supported",
    Reads.SUBSPACE: "refuted",
    Reads.NEGATIVES: "refuted",
    Reads.ANY: "refuted",
    Reads.NONE: "refuted",
    Reads.UNDECIDED: "inconclusive",
    Reads.NOT_MEASURED: "unknown",
}


def _read(inputs: ReportInputs) -> str:
    """What the adapters answer to, with how often in brackets."""
    found = inputs.answers.direction
    if found.reads is Reads.NOT_MEASURED and found.tested is not None:
        return f"{UNREAD}: {found.tested.reason or 'it was not measured'}."
    own, others = (
        "" if share is None else f" ({share:.0%} of answers)"
        for share in (found.tested and found.tested.own, found.tested and found.tested.held_out)
    )
    return READ[found.reads].format(own=own, others=others)


def cards(inputs: ReportInputs) -> tuple[AnswerCard, AnswerCard, AnswerCard]:
    """As registered; the ranking; the direction and the prompt."""
    answers, analysis = inputs.answers, inputs.analysis
    verdict, ranked, reads = analysis.verdict, answers.ranking.answer, answers.direction.reads
    said = three_lines(answers, analysis, inputs.experiment)
    registered, ranking, direction = (line.replace("_", " ") for line in said)
    return (
        AnswerCard(
            question="As registered",
            word=verdict,
            tone=verdict.lower(),
            plain=RULE[verdict],
            text=f"{registered}{_that_is(inputs)}",
        ),
        AnswerCard(
            question="The ranking of the personas",
            word=ranked,
            tone=_TONES[ranked],
            plain=RANKED[ranked],
            text=ranking,
        ),
        AnswerCard(
            question="The direction, and the prompt",
            word=reads.upper(),
            tone=_TONES[reads],
            plain=_read(inputs),
            text=direction,
        ),
    )


def _that_is(inputs: ReportInputs) -> str:
    """The kills that fired, by what they mean."""
    results = inputs.analysis.tested.kills
    fired = [c.meaning for c in criteria() if c.name in results and results[c.name].fired]
    return f" That is: {'; '.join(fired)}." if fired else ""


def meaning(inputs: ReportInputs) -> str:
    """What all of it means for the question of the title."""
    return wording.sentence(reading(inputs.answers, inputs.analysis, inputs.experiment))


def against(inputs: ReportInputs) -> Iterator[Caveat]:
    """What a reader must know before believing: changes, gates, kills, serious objections."""
    if inputs.registration.lock is None:
        yield Caveat(
            what="Not registered",
            finding="there is no lock, so read this as exploration",
        )
    elif inputs.registration.deviations:
        count = len(inputs.registration.deviations)
        times = "once" if count == 1 else f"{count} times"
        yield Caveat(
            what="Changed",
            finding=f"the experiment was changed {times} after it was locked; see Registration",
        )
    if inputs.analysis.magnitude_bound:
        yield Caveat(
            what="Magnitude-bound",
            finding="the arm passes at one of the two strengths only",
        )
    yield from _absent(inputs)
    yield from _gates(inputs)
    yield from _kills(inputs)
    for note in inputs.analysis.notes:
        yield Caveat(what="Table", finding=note)
    yield from _objections(inputs, serious=True)


def _absent(inputs: ReportInputs) -> Iterator[Caveat]:
    """The cells that this run could not give, by name, each with why."""
    detail = inputs.detail
    if count := len(detail.absent):
        cells = "one cell has" if count == 1 else f"{count} cells have"
        named = _named(detail.absent)
        yield Caveat(
            what="Missing",
            finding=f"{cells} no rates, and what needs them is missing, never zero: {named}",
        )
    if detail.unread:
        yield Caveat(
            what="Unread",
            finding=f"how training went is not shown for all adapters: {_named(detail.unread)}",
        )


def _named(reasons: Mapping[str, str]) -> str:
    known = [f"{name}: {why.rstrip('.')}" for name, why in reasons.items()]
    more = len(known) - _MOST_ABSENT
    return "; ".join(known[:_MOST_ABSENT]) + (f"; and {more} more" if more > 0 else "")


def gates(inputs: ReportInputs) -> tuple[Gate, ...]:
    """Every gate: of the ranking at the deciding and at the primary strength, then warnings."""
    ranking = inputs.answers.ranking
    further = [gate for gate in ranking.primary_gates if gate not in ranking.gates]
    return (*ranking.gates, *further, *inputs.answers.gates)


def _gates(inputs: ReportInputs) -> Iterator[Caveat]:
    """The gates that fail, each once: at the deciding strength, or else at the primary one."""
    failing: dict[str, Gate] = {}
    for gate in gates(inputs):
        if gate.passed is False:
            failing.setdefault(gate.name, gate)
    for name, gate in failing.items():
        yield Caveat(
            what=f"Gate {name.replace('_', ' ')}",
            finding=f"{gate.finding} (it must be: {gate.limit})",
            remedy=gate.remedy,
        )


def _kills(inputs: ReportInputs) -> Iterator[Caveat]:
    results = inputs.analysis.tested.kills
    for criterion in criteria():
        result = results.get(criterion.name)
        if result is None or result.fired is False:
            continue
        state = "fired" if result.fired else f"undecided: {result.reason}"
        limit = wording.symbols(criterion.fires_when(inputs.experiment.analysis))
        yield Caveat(
            what=f"Kill {criterion.name.replace('_', ' ')}",
            finding=f"{state}; {criterion.meaning} (it fires when {limit})",
        )


def notes(inputs: ReportInputs) -> tuple[Caveat, ...]:
    """The objections that are not serious."""
    return tuple(_objections(inputs, serious=False))


def _objections(inputs: ReportInputs, *, serious: bool) -> Iterator[Caveat]:
    for objection in inputs.objections:
        if (objection.severity == "serious") == serious:
            yield Caveat(
                what=objection.code.replace("_", " ").capitalize(),
                finding=objection.finding,
                remedy=objection.remedy,
            )
