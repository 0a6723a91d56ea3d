"""`geometry.json` of a directions unit: what a layer's directions are like. No torch."""

from collections.abc import Mapping
from math import isfinite

from steerproof.codec import read_record
from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.errors import IntegrityError
from steerproof.run.store.manifest import StoredUnit

FILE = "geometry.json"


def from_unit(unit: StoredUnit) -> LayerCalibration:
    """The calibration that a directions unit holds.

    Raises:
        IntegrityError: The file is not what its manifest says, or no calibration: a pair of
            personas has no place in it, or a length is none.
    """
    name = f"{unit.directory / FILE}"
    calibration = read_record(LayerCalibration, unit.read(FILE), name)
    tables = [calibration.cosines]
    for control in calibration.controls.values():
        tables += [control.centroids, control.each_other]
    if not all(_square(table, calibration.personas) for table in tables):
        raise IntegrityError(f"{name} does not have the cosine of every two personas")
    lengths = [calibration.h_bar, *(persona.norm for persona in calibration.personas.values())]
    if calibration.h_bar <= 0 or not all(isfinite(length) and length >= 0 for length in lengths):
        raise IntegrityError(f"{name} has a length that is none: h_bar and norms are {lengths}")
    return calibration


def _square(table: Mapping[str, Mapping[str, object]], names: Mapping[str, object]) -> bool:
    return table.keys() >= names.keys() and all(
        table[name].keys() >= names.keys() for name in names
    )
