"""A dataset unit: the training rows of one persona."""

from collections.abc import Mapping

from steerproof.codec import json_bytes, read_record
from steerproof.run.store.manifest import StoredUnit
from steerproof.study.dataset import Dataset

FILE = "dataset.json"


def to_files(dataset: Dataset) -> Mapping[str, bytes]:
    """The unit's file."""
    return {FILE: json_bytes(dataset)}


def from_unit(unit: StoredUnit) -> Dataset:
    """The rows.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    return read_record(Dataset, unit.read(FILE), f"{unit.directory / FILE}")
