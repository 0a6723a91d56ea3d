"""The three answers of a judged run in few words: as registered, ranking, direction.

The words are those of `results/verdict.json`; nothing is judged here.
"""

from dataclasses import dataclass

from steerproof.decide.analysis.answer_records import Carries, Ranking, Reads
from steerproof.decide.report import wording
from steerproof.decide.report.plainly import plainly
from steerproof.run.artefacts.verdict import StrengthHead, VerdictHead

_TONES: dict[str, str] = {
    "SUPPORTED": "yes",
    "REFUTED": "no",
    "INCONCLUSIVE": "open",
    Ranking.CANNOT_ANSWER: "open",
    Reads.OWN: "yes",
    Reads.SUBSPACE: "no",
    Reads.NEGATIVES: "no",
    Reads.ANY: "no",
    Reads.NONE: "no",
    Reads.UNDECIDED: "open",
    Carries.YES: "yes",
    Carries.BOTH: "open",
    Carries.NO: "no",
}
_QUESTIONS = ("Registered", "Ranking", "Direction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer."""

    question: str
    """`Registered`, `Ranking` or `Direction`."""
    word: str
    """`REFUTED`, `cannot answer`, `reads its own direction`, `not judged`."""
    tone: str
    """`yes`, `no`, `open` or `none`: its sign and colour."""
    plain: str = ""
    """What that is, for a reader who knows neither statistics nor the words of this field."""
    text: str = ""
    """Why, in whole sentences with their numbers."""


def answers_of(head: VerdictHead | None) -> tuple[Answer, ...]:
    """The three answers, in order; none of a run without a verdict."""
    if head is None:
        return ()
    said = head.answers
    words = (head.verdict, said.ranking.answer, said.direction.reads)
    texts = said.lines if len(said.lines) == len(words) else (head.reason, "", "")
    plain = plainly(*words)
    return tuple(
        Answer(question=q, word=_shown(word), tone=_TONES.get(word, "none"), plain=p, text=text)
        for q, word, p, text in zip(_QUESTIONS, words, plain, texts, strict=True)
    )


def correlation(judged: StrengthHead | None) -> str:
    """`ρ 0.34 (0.15 to 0.46)`; empty where there is none."""
    if judged is None or judged.rho is None:
        return ""
    value = f"ρ {wording.fixed(judged.rho)}"
    if judged.interval is None:
        return value
    low, high = map(wording.fixed, judged.interval)
    return f"{value} ({low} to {high})"


def _shown(word: str) -> str:
    """A verdict keeps its capitals; the ranking's `CANNOT ANSWER` and no answer are plain words."""
    if not word:
        return "not judged"
    return word.lower() if word == Ranking.CANNOT_ANSWER else word
