"""A directions unit: the geometry of one layer, as vectors and as what they are like."""

from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from steerproof.codec import json_bytes
from steerproof.errors import IntegrityError
from steerproof.run.artefacts import calibration
from steerproof.run.store.manifest import StoredUnit
from steerproof.study.directions import from_tensors, tensors
from steerproof.study.geometry import LayerGeometry

FILE = "directions.safetensors"


def to_files(geometry: LayerGeometry) -> Mapping[str, bytes]:
    """The unit's files."""
    stored = save_tensors(tensors([geometry.directions]), metadata={"layer": str(geometry.layer)})
    return {FILE: stored, calibration.FILE: json_bytes(geometry.calibration)}


def from_unit(unit: StoredUnit, seed: int = 0) -> LayerGeometry:
    """The geometry that a directions unit holds.

    Args:
        unit: As stored.
        seed: The experiment's `drawing_seed`, from which fresh random directions are drawn.

    Raises:
        IntegrityError: A file is not what its manifest says, or does not hold a vector of numbers
            for each persona of the calibration.
    """
    measured, content = calibration.from_unit(unit), unit.read(FILE)
    personas = tuple(measured.personas)
    try:
        directions = from_tensors(load_tensors(content), layer=measured.layer, personas=personas)
    except (SafetensorError, KeyError, ValueError) as error:
        raise IntegrityError(f"{unit.directory / FILE} holds no directions: {error}") from error
    return LayerGeometry(directions=directions, calibration=measured, seed=seed)
