"""A new kind of direction is one function with its name."""

from typing import get_args

import pytest
import torch

from steerproof.errors import SteeringError
from steerproof.spec.experiment import DirectionKind
from steerproof.study.calibration import calibrate
from steerproof.study.directions import from_residuals, from_tensors, tensors
from steerproof.study.kinds import KINDS, Material
from tests.study.test_directions import HEADLINE, residuals


def test_every_kind_that_an_experiment_can_name_is_made():
    assert set(get_args(DirectionKind)) == {*KINDS, "none"}


def test_another_kind_is_one_function_and_is_pushed_along_stored_and_calibrated(monkeypatch):
    def median(shown: Material) -> torch.Tensor:
        return shown.by_persona.double().median(dim=1).values - shown.raw.mean(0)

    monkeypatch.setitem(KINDS, "median", median)  # type: ignore[arg-type]
    seen = residuals()
    made = from_residuals(seen, headline=HEADLINE, seed=1)
    back = from_tensors(tensors([made]), layer=made.layer, personas=made.personas)
    assert torch.equal(back.vector("median", "b"), made.vector("median", "b"))
    calibrated = calibrate(seen, back, headline=HEADLINE, reference="a", seed=1)
    assert set(calibrated.controls) == {"isotropic", "in_subspace", "median"}


def test_a_kind_that_a_run_does_not_have_is_said():
    made = from_residuals(residuals(), headline=HEADLINE, seed=1)
    with pytest.raises(SteeringError, match="no median directions; there are centroid"):
        made.vector("median", "a")
