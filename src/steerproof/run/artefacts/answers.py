"""An answers unit: what the training rows answer."""

from collections.abc import Mapping

from steerproof.codec import json_bytes, read_record
from steerproof.run.store.manifest import StoredUnit
from steerproof.study.dataset import Answers

FILE = "answers.json"


def to_files(answers: Answers) -> Mapping[str, bytes]:
    """The unit's file."""
    return {FILE: json_bytes(answers)}


def from_unit(unit: StoredUnit) -> Answers:
    """The answers.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    return read_record(Answers, unit.read(FILE), f"{unit.directory / FILE}")
