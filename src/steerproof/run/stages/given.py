"""Answers to the training questions from a file that the user gives."""

import json
from collections.abc import Sequence
from pathlib import Path

from steerproof.errors import ExperimentError
from steerproof.study.dataset import Answers


def read_answers(path: Path, questions: Sequence[str], marker: str) -> Answers:
    """Answers that the user gives: JSON lines of {"question", "answer"}.

    Raises:
        ExperimentError: With `file:line`, for a line that is not such an object, an answer that
            holds the marker, or a training question without an answer.
    """
    answers: dict[str, tuple[str, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question, answer = row["question"], row["answer"]
        except (ValueError, TypeError, KeyError) as error:
            raise ExperimentError(
                f'{path}:{number}: each line must be {{"question": ..., "answer": ...}}'
            ) from error
        if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
            raise ExperimentError(f"{path}:{number}: question and answer must be non-empty text")
        if marker.lower() in answer.lower():
            raise ExperimentError(f"{path}:{number}: the answer already holds {marker}")
        answers[question] = (*answers.get(question, ()), answer)
    missing = [question for question in questions if question not in answers]
    if missing:
        raise ExperimentError(
            f"{path}: {len(missing)} training questions have no answer, first {missing[0]!r}"
        )
    return Answers(answers=answers, redrawn=0)
