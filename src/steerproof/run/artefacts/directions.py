"""A directions unit: the vectors of one layer, and their calibration."""

from collections.abc import Mapping

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from steerproof.codec import json_bytes
from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.run.artefacts import calibration
from steerproof.run.store.manifest import StoredUnit
from steerproof.study.directions import Directions, from_tensors, tensors

FILE = "directions.safetensors"


def to_files(directions: Directions, measured: LayerCalibration) -> Mapping[str, bytes]:
    """The unit's files."""
    stored = save_tensors(tensors([directions]), metadata={"layer": str(directions.layer)})
    return {FILE: stored, calibration.FILE: json_bytes(measured)}


def from_unit(unit: StoredUnit) -> tuple[Directions, LayerCalibration]:
    """The vectors, and what they are like.

    Raises:
        IntegrityError: A file is not what its manifest says.
    """
    measured = calibration.from_unit(unit)
    directions = from_tensors(
        load_tensors(unit.read(FILE)), layer=measured.layer, personas=tuple(measured.personas)
    )
    return directions, measured
