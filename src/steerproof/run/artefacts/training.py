"""An adapter unit: how its training went; the weights beside it are PEFT's own two files."""

from collections.abc import Mapping

from steerproof.codec import json_bytes, read_record
from steerproof.run.store.manifest import StoredUnit
from steerproof.study.trained import TrainingRecord

FILE = "training.json"


def to_files(record: TrainingRecord, peft: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The unit's files.

    Args:
        record: How the training went.
        peft: The adapter's files, from `engine.lora.peft_files.write_peft`.
    """
    return {**peft, FILE: json_bytes(record)}


def from_unit(unit: StoredUnit) -> TrainingRecord:
    """How the training went.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    return read_record(TrainingRecord, unit.read(FILE), f"{unit.directory / FILE}")
