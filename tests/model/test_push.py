"""The algebra of pushes, held to what the residual stream gets."""

import pytest
import torch

from steerproof.errors import SteeringError
from steerproof.model.push import Push
from steerproof.model.steering import Steering
from tests.tiny import HIDDEN, random_ids, tiny_base


def vector(seed: int, width: int = HIDDEN) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


A = Push(layer=1, vector=vector(0), coefficient=2.0, ratio=0.4)
B = Push(layer=1, vector=vector(1), coefficient=-1.0, ratio=-0.4)
ELSEWHERE = Push(layer=2, vector=vector(2))


def test_a_push_is_scaled_and_turned_round_with_its_coefficient_and_ratio():
    double, back = 2 * A, -A
    assert torch.equal(double.vector, 2 * A.vector)
    assert (double.coefficient, double.ratio) == (4.0, 0.8)
    assert torch.equal(back.vector, -A.vector)
    assert (back.coefficient, back.ratio) == (-2.0, -0.4)


def test_a_sum_at_one_layer_is_one_vector_of_no_one_direction():
    both = A + B
    assert len(both.parts) == 1
    assert torch.equal(both.vector, A.vector + B.vector)
    assert both.coefficient is None
    h_bar = float(A.vector.norm()) / 0.4
    assert both.ratio == pytest.approx(float(both.vector.norm()) / h_bar, rel=1e-6)
    assert (A + Push(layer=1, vector=vector(3))).ratio is None


def test_a_sum_over_layers_keeps_its_parts_and_is_scaled_as_a_whole():
    both = ELSEWHERE + A
    assert [part.layer for part in both.parts] == [1, 2]
    assert [part.ratio for part in (-both).parts] == [-0.4, None]
    again = both + both
    assert torch.equal(again.parts[1].vector, 2 * ELSEWHERE.vector)
    gone = both - A
    assert not gone.parts[0].vector.any()


def test_pushes_of_two_widths_have_no_sum():
    with pytest.raises(SteeringError, match=f"widths {HIDDEN} and 8"):
        _ = A + Push(layer=1, vector=vector(0, 8))


def test_what_removes_or_acts_elsewhere_is_not_mixed_with_what_does_not():
    removing = Push(layer=1, vector=vector(4), removes=1.0)
    for mixed in (lambda: 2 * removing, lambda: removing + A):
        with pytest.raises(SteeringError, match="removes"):
            mixed()
    assert len((removing + ELSEWHERE).parts) == 2
    with pytest.raises(SteeringError, match="at all and at generated tokens"):
        _ = A + Push(layer=1, vector=vector(4), tokens="generated")


def test_a_sum_over_layers_adds_each_part_at_its_own_layer_in_one_pass():
    base = tiny_base("qwen2")
    ids = random_ids(2, 5)

    def logits(*pushes: Push, slots: list[int]) -> tuple[torch.Tensor, Steering]:
        steering = Steering(base.blocks, pushes, device=base.device, dtype=base.dtype)
        with steering.attach(), torch.no_grad():
            steering.route(torch.tensor(slots))
            return base.model(input_ids=ids).logits, steering

    together, steering = logits(A + ELSEWHERE, slots=[1, 0])
    inner = Steering(base.blocks, [A], device=base.device, dtype=base.dtype)
    outer = Steering(base.blocks, [ELSEWHERE], device=base.device, dtype=base.dtype)
    with inner.attach(), outer.attach(), torch.no_grad():
        inner.route(torch.tensor([1, 0]))
        outer.route(torch.tensor([1, 0]))
        assert torch.equal(together, base.model(input_ids=ids).logits)
    first, second = steering.audit().parts[0]
    assert (first.layer, second.layer) == (1, 2)
    assert first.push_norm == pytest.approx(float(A.vector.norm()), rel=1e-5)
    assert second.push_norm == pytest.approx(float(ELSEWHERE.vector.norm()), rel=1e-5)
    assert steering.audit().firings == {1: 1, 2: 1}
