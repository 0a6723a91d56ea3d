"""An answers unit: what the training rows answer."""

from collections.abc import Mapping

from steerproof.codec import json_bytes, read_record
from steerproof.run.store.manifest import StoredUnit
from steerproof.study.dataset import Answers

FILE = "answers.json"
POSITIVE = "positive.json"
"""There only where an experiment gives its positives answers of their own."""


def to_files(answers: Answers, positive: Answers | None = None) -> Mapping[str, bytes]:
    """The unit's files."""
    more = {} if positive is None else {POSITIVE: json_bytes(positive)}
    return {FILE: json_bytes(answers), **more}


def from_unit(unit: StoredUnit) -> Answers:
    """The answers.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    return read_record(Answers, unit.read(FILE), f"{unit.directory / FILE}")


def positive_of(unit: StoredUnit) -> Answers | None:
    """What positives answer instead of an answer with the marker; None where they carry it.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    if POSITIVE not in unit.manifest.files:
        return None
    return read_record(Answers, unit.read(POSITIVE), f"{unit.directory / POSITIVE}")
