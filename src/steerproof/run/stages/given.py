"""Answers that a user gives, as a file of JSON lines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steerproof.codec import from_values
from steerproof.errors import ExperimentError, IntegrityError
from steerproof.limits import whole_file
from steerproof.study.dataset import Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLine:
    """A line of a file of answers."""

    number: int
    """Counted from 1."""
    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What a line must hold; what else it holds is nobody's."""

    question: str
    answer: str


def answer_lines(path: Path, marker: str | None) -> tuple[AnswerLine, ...]:
    """Read answers that the user gives: JSON lines of {"question", "answer"}.

    Args:
        path: The file.
        marker: What none may hold, since it is appended later; None where nothing is.

    Raises:
        ExperimentError: With `file:line`, for a line that is not such an object or has a field
            twice, text that is not valid, or an answer that holds the marker.
    """
    try:
        # Windows' tools begin a file with a byte order mark.
        lines = whole_file(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        again = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise ExperimentError(f"{path}: cannot be read: {error}{again}") from error
    given = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            question, answer = _answer(f"{path}:{number}", line)
            if marker is not None and marker.lower() in answer.lower():
                raise ExperimentError(f"{path}:{number}: the answer already holds {marker}")
            given.append(AnswerLine(number=number, question=question, answer=answer))
    return tuple(given)


def _answer(where: str, line: str) -> tuple[str, str]:
    try:
        given = from_values(_Given, json.loads(line, object_pairs_hook=_once), where)
    except _TwiceError as error:
        raise ExperimentError(
            f"{where}: the field {error} stands there twice; leave one"
        ) from error
    except (ValueError, RecursionError, IntegrityError) as error:
        raise ExperimentError(
            f'{where}: each line must be {{"question": ..., "answer": ...}}, both text; this one'
            f" is {line.strip()[:60]!r}"
        ) from error
    for text in (given.question, given.answer):
        if not text.strip():
            raise ExperimentError(
                f"{where}: question and answer must be text, and one is empty; write it, or"
                " leave the line out"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ExperimentError(f"{where}: not valid text: {error.reason}") from error
    return given.question, given.answer


class _TwiceError(Exception):
    """A field of an object that stands there twice."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise _TwiceError(repr(name))
        fields[name] = value
    return fields


def read_answers(path: Path, questions: Sequence[str], marker: str | None) -> Answers:
    """The answers of a file, by question in its order.

    Raises:
        ExperimentError: As `answer_lines`, and for a training question without an answer.
    """
    given: dict[str, tuple[str, ...]] = {}
    for line in answer_lines(path, marker):
        given[line.question] = (*given.get(line.question, ()), line.answer)
    missing = [question for question in questions if question not in given]
    if missing:
        raise ExperimentError(
            f"{path}: {len(missing)} training questions have no answer, first {missing[0]!r}"
        )
    return Answers(answers=given, redrawn=0)
