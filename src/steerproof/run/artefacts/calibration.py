"""`geometry.json` of a directions unit: what a layer's directions are like. No torch."""

from steerproof.codec import read_record
from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.run.store.manifest import StoredUnit

FILE = "geometry.json"


def from_unit(unit: StoredUnit) -> LayerCalibration:
    """The calibration that a directions unit holds.

    Raises:
        IntegrityError: The file is not what its manifest says, or no calibration.
    """
    return read_record(LayerCalibration, unit.read(FILE), f"{unit.directory / FILE}")
