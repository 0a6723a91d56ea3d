"""Verdicts that show themselves in a notebook: the head of the report."""

from dataclasses import dataclass, fields
from html import escape

from steerproof.decide.analysis.answer_records import ThreeAnswers
from steerproof.decide.analysis.records import Analysis, ArmResult
from steerproof.decide.report import wording
from steerproof.run.artefacts.verdict import RunVerdict

_COLUMNS = ("arm", "strength", "rho", "interval", "personas", "passes", "kills")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnalysis(Analysis):
    """An analysis that a notebook shows as the head of its report."""

    answers: ThreeAnswers
    """As registered, the ranking, the direction."""

    def _repr_html_(self) -> str:
        return head_html(self, self.answers)


class ShownVerdict(RunVerdict):
    """A verdict that a notebook shows as the head of its report."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return head_html(self.analysis, self.answers)


def shown(analysis: Analysis, answers: ThreeAnswers) -> ShownAnalysis:
    """The same analysis, which shows itself."""
    known = {part.name: getattr(analysis, part.name) for part in fields(Analysis)}
    return ShownAnalysis(**known, answers=answers)


def head_html(analysis: Analysis, answers: ThreeAnswers) -> str:
    """The verdict, why, the answers, and each arm's numbers. Every text is escaped."""
    rows = [row for name, arm in analysis.arms.items() for row in _rows(name, arm)]
    head = "".join(f"<th>{escape(column)}</th>" for column in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in answers.lines)
    notes = "".join(f"<li>{escape(wording.sentence(note))}</li>" for note in analysis.notes)
    return (
        f"<p><strong>{escape(analysis.verdict)}</strong>: "
        f"{escape(wording.with_meanings(analysis.reason))}.</p>"
        f"<ol>{lines}</ol>"
        f"<p>{escape(wording.sentence(analysis.reading))}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<ul>{notes}</ul>" if notes else "")
    )


def _rows(name: str, arm: ArmResult) -> list[tuple[str, ...]]:
    fired = [kill.replace("_", " ") for kill, result in arm.kills.items() if result.fired]
    return [
        (
            name,
            str(at.strength),
            wording.signed(at.rho),
            wording.bounds(at.interval),
            str(at.n),
            wording.yes(at.passes),
            ", ".join(fired) or "none",
        )
        for at in arm.strengths
    ]
