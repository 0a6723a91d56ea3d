"""Removing a direction, and acting at some tokens only: exact where it acts, nothing elsewhere."""

import pytest
import torch

from steerproof.errors import SteeringError
from steerproof.model.base import Base
from steerproof.model.steering import Push, Steering
from tests.tiny import ARCHITECTURES, HIDDEN, LAYERS, random_ids, tiny_base

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def vector(seed: int) -> torch.Tensor:
    return torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))


def steering_of(base: Base, *pushes: Push) -> Steering:
    return Steering(base.blocks, pushes, device=base.device, dtype=base.dtype)


@torch.no_grad()
def logits(base: Base, ids: torch.Tensor) -> torch.Tensor:
    return base.model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
def by_hand(base: Base, ids: torch.Tensor, push: Push, at: slice = slice(None)) -> torch.Tensor:
    """`h - share (h.v) v / |v|^2` at some positions of every row, by the plainest hook."""
    v = push.vector.to(base.dtype)

    def remove(_module, _args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        part = hidden[:, at]
        hidden[:, at] = part - push.removes * (part @ v)[..., None] * v / (v @ v)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = base.blocks[push.layer].register_forward_hook(remove)
    try:
        return logits(base, ids)
    finally:
        handle.remove()


@architectures
@pytest.mark.parametrize("share", [1.0, 0.5, 2.0])
def test_what_is_removed_is_that_share_of_the_component(architecture: str, share: float) -> None:
    base = tiny_base(architecture, dtype=torch.float64)
    ids = random_ids(3, 6)
    push = Push(layer=1, vector=vector(1).double(), removes=share)
    with (steering := steering_of(base, push)).attach():
        steering.route(torch.tensor([1, 0, 1]))
        found = logits(base, ids)
    expected = by_hand(base, ids, push)
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1], logits(base, ids)[1], rtol=0, atol=0)
    assert not torch.allclose(found[0], logits(base, ids)[0], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_remove_nothing_keep_every_bit_beside_rows_that_do(dtype: torch.dtype) -> None:
    base = tiny_base("qwen2", dtype=dtype)
    ids = random_ids(3, 7)
    plain = logits(base, ids)
    pushes = [Push(layer=k, vector=vector(k), removes=1.0) for k in range(LAYERS)]
    with (steering := steering_of(base, *pushes)).attach():
        steering.route(torch.tensor([0, 0, 2]))
        found = logits(base, ids)
    assert torch.equal(found[:2].view(torch.uint8), plain[:2].view(torch.uint8))
    assert not torch.equal(found[2], plain[2])


def test_adding_and_removing_rows_share_a_layer() -> None:
    base = tiny_base("qwen2", dtype=torch.float64)
    ids = random_ids(2, 5)
    added = Push(layer=1, vector=vector(3).double())
    removed = Push(layer=1, vector=vector(4).double(), removes=1.0)
    alone = []
    for push in (added, removed):
        with (steering := steering_of(base, push)).attach():
            steering.route(torch.tensor([1, 1]))
            alone.append(logits(base, ids))
    with (steering := steering_of(base, added, removed)).attach():
        steering.route(torch.tensor([1, 2]))
        both = logits(base, ids)
    torch.testing.assert_close(both[0], alone[0][0], rtol=0, atol=0)
    torch.testing.assert_close(both[1], alone[1][1], rtol=0, atol=0)


def test_the_audit_measures_the_component_that_was_removed() -> None:
    base = tiny_base("qwen2", dtype=torch.float64)
    push = Push(layer=1, vector=vector(5).double(), removes=1.0)
    seen = []

    def look(_module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden)

    handle = base.blocks[1].register_forward_hook(look)
    with (steering := steering_of(base, push)).attach():
        steering.route(torch.tensor([1, 1]))
        logits(base, random_ids(2, 5))
    handle.remove()
    unit = push.vector / push.vector.norm()
    size = steering.audit().slots[0].push_norm
    assert size == pytest.approx(float((seen[0] @ unit).abs().mean()), rel=1e-9)


def test_gradients_pass_what_is_left() -> None:
    base = tiny_base("qwen2", dtype=torch.float64)
    push = Push(layer=0, vector=vector(6).double(), removes=1.0)
    x = torch.randn(1, 3, HIDDEN, dtype=torch.float64, requires_grad=True)
    steering = Steering(
        torch.nn.ModuleList([torch.nn.Identity()]),
        [push],
        device=base.device,
        dtype=torch.float64,
    )
    with steering.attach():
        steering.route(torch.tensor([1]))
        steering._blocks[0](x).square().sum().backward()
    unit = push.vector / push.vector.norm()
    left = torch.eye(HIDDEN, dtype=torch.float64) - torch.outer(unit, unit)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * x.detach() @ left, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("all", [1, 1, 1, 1, 1, 1]),
        ("prompt", [1, 1, 1, 1, 0, 0]),
        ("last_prompt", [0, 0, 0, 1, 0, 0]),
        ("generated", [0, 0, 0, 0, 1, 1]),
    ],
)
def test_a_mask_says_where_a_push_acts(tokens, expected) -> None:
    push = Push(layer=0, vector=vector(0), tokens=tokens)
    assert push.mask(4, 6).int().tolist() == expected
    base = tiny_base("qwen2", dtype=torch.float64)
    removal = Push(layer=1, vector=vector(1).double(), removes=1.0, tokens=tokens)
    ids = random_ids(1, 6)
    with (steering := steering_of(base, removal)).attach():
        steering.route(torch.tensor([1]), removal.mask(4, 6)[None])
        found = logits(base, ids)
    first = expected.index(1)
    by_position = by_hand(base, ids, removal, slice(first, first + sum(expected)))
    torch.testing.assert_close(found, by_position, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("share", "size"), [(-1.0, 1.0), (1.0, 0.0)])
def test_a_removal_of_nothing_is_an_error(share: float, size: float) -> None:
    base = tiny_base("qwen2")
    with pytest.raises(SteeringError, match="cannot be removed"):
        steering_of(base, Push(layer=0, vector=size * vector(0), removes=share))
