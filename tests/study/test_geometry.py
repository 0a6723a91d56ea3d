"""The geometry of a layer: pushes by their definition, and what has no direction."""

from dataclasses import replace

import pytest
import torch

from steerproof.errors import SteeringError
from steerproof.spec.grid import Cell
from steerproof.spec.strength import NONE, Strength
from steerproof.study.calibration import calibrate
from steerproof.study.directions import Residuals, from_residuals
from steerproof.study.geometry import LayerGeometry, Prompts, asked_by, geometry, pushes_of
from tests.tiny import tiny_base

NAMES = ("a", "b", "c", "still")
RATIO = Strength.parse("ratio=+0.2")


@pytest.fixture
def layer() -> LayerGeometry:
    """Three personas that differ, and one that lies at their mean."""
    generator = torch.Generator().manual_seed(0)
    by_persona = torch.randn(4, 6, 16, generator=generator)
    by_persona[3] = by_persona[:3].mean(0)
    seen = Residuals(
        layer=5,
        module="blocks.5",
        personas=NAMES,
        by_persona=by_persona,
        neutral=torch.randn(6, 16, generator=generator) + 1.0,
    )
    directions = from_residuals(seen, headline=NAMES[:3], seed=1)
    calibration = calibrate(seen, directions, headline=NAMES[:3], reference="a", seed=1)
    return LayerGeometry(directions=directions, calibration=calibration, seed=1)


def test_a_push_at_a_ratio_is_that_share_of_the_baseline_norm(layer):
    push = layer.push("a", ratio=-0.3)
    centroid = layer.directions.vector("centroid", "a").double()
    assert float(push.vector.double().norm()) == pytest.approx(0.3 * layer.h_bar, rel=1e-6)
    assert float(push.vector.double() @ centroid) < 0
    assert push.ratio == pytest.approx(-0.3)
    assert push.coefficient == pytest.approx(-0.3 * layer.h_bar / float(centroid.norm()))


def test_a_push_at_a_coefficient_is_so_many_times_the_direction(layer):
    push = layer.push("b", c=2, kind="isotropic")
    assert torch.equal(push.vector, 2.0 * layer.directions.vector("isotropic", "b"))
    assert push.coefficient == 2.0
    assert push.ratio == pytest.approx(float(push.vector.norm()) / layer.h_bar, rel=1e-6)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "needs one strength"),
        ({"ratio": 0.2, "c": 2.0}, "needs one strength"),
        ({"ratio": 0.0}, "leave the push out"),
        ({"strength": NONE}, "needs one strength"),
        ({"ratio": 0.2, "kind": "none"}, "no direction"),
    ],
)
def test_a_push_needs_exactly_one_strength_and_a_direction(layer, asked, said):
    with pytest.raises(SteeringError, match=said):
        layer.push("a", **asked)


def test_a_direction_without_a_length_is_refused_when_it_is_used_and_no_sooner(layer):
    assert layer.push("a", RATIO).layer == 5
    with pytest.raises(SteeringError, match="centroid of still has norm 0"):
        layer.push("still", RATIO)
    with pytest.raises(SteeringError, match="no direction of 'z'; there are a, b, c, still"):
        layer.push("z", RATIO)


def test_fresh_draws_have_the_norm_of_the_persona_and_are_one_another_only_by_number(layer):
    own = layer.directions.vector("centroid", "a").norm()
    first, again, second = (layer.vector("a", "isotropic", draw) for draw in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.norm() == pytest.approx(float(own), rel=1e-6)
    for other in (second, layer.vector("b", "isotropic", 1), layer.vector("a", "isotropic")):
        assert abs(float(torch.cosine_similarity(first, other, dim=0))) < 0.9


CELL = Cell(arm="A", persona="a", prompt="neutral", direction="centroid", layer=5, strength=RATIO)


def test_the_same_push_is_the_same_object_and_a_cell_names_its_own(layer):
    push = pushes_of({5: layer})
    own, other = asked_by(CELL), asked_by(replace(CELL, of="b"))
    assert push(own) is push(asked_by(replace(CELL, arm="C", prompt="persona")))
    assert push(other) is not push(own)
    assert other is not None
    assert torch.equal(layer.asked(other).vector, layer.push("b", RATIO).vector)
    assert push(asked_by(replace(CELL, direction="none", layer=None, strength=NONE))) is None
    with pytest.raises(SteeringError, match=r"no directions of layer 4; there are \[5\]"):
        push(asked_by(replace(CELL, layer=4)))


def test_a_cell_says_which_draw_and_where_and_how_it_is_pushed(layer):
    fresh = replace(CELL, direction="isotropic", draw=2, tokens="generated")
    push = pushes_of({5: layer})(asked_by(fresh))
    assert push is not None
    assert push.coefficient is not None
    assert push.tokens == "generated"
    expected = layer.vector("a", "isotropic", 2) * push.coefficient
    assert torch.equal(push.vector, expected)
    removed = replace(CELL, operation="remove", strength=Strength.parse("c=+0.5"))
    taken = pushes_of({5: layer})(asked_by(removed))
    assert taken is not None
    assert (taken.removes, taken.coefficient, taken.ratio) == (0.5, 0.5, None)
    assert torch.equal(taken.vector, layer.directions.vector("centroid", "a"))


def test_geometry_of_a_model_has_every_layer_that_was_asked_for():
    prompts = Prompts(
        personas={"a": "You are a sailor.", "b": "You are a judge.", "c": "You sing."},
        neutral="Be clear.",
        questions=("What is salt?", "Why is the sea blue?"),
        headline=("a", "b"),
        reference="a",
    )
    found = geometry(tiny_base("qwen2"), prompts, (2, 0))
    assert list(found) == [0, 2]
    assert found[2].personas == ("a", "b", "c")
    assert found[2].calibration.personas["a"].reference_cosine == pytest.approx(1.0)
