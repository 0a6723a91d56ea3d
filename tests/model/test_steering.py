"""The one hook: exact, per row, attached entirely or not at all, and never silent."""

from collections import namedtuple
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from steerproof.engine.cache.handed import handed, kept
from steerproof.errors import SteeringError
from steerproof.model.base import Base, find_blocks
from steerproof.model.steering import Push, Steering, block_hidden, record
from tests.tiny import ARCHITECTURES, HIDDEN, LAYERS, random_ids, tiny_base

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def vector(seed: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))


def three_pushes() -> list[Push]:
    return [Push(layer=layer, vector=vector(seed)) for seed, layer in enumerate((1, 2, 1))]


def steering_of(base: Base, pushes: list[Push], **options) -> Steering:
    return Steering(base.blocks, pushes, device=base.device, dtype=base.dtype, **options)


@torch.no_grad()
def logits(base: Base, ids: torch.Tensor, **inputs) -> torch.Tensor:
    return base.model(input_ids=ids, use_cache=False, **inputs).logits


@torch.no_grad()
def by_hand(base: Base, ids: torch.Tensor, push: Push | None) -> torch.Tensor:
    """One row, steered by the plainest hook there is."""
    if push is None:
        return logits(base, ids)

    def add(_module, _args, output):
        if isinstance(output, tuple):
            return (output[0] + push.vector.to(output[0].dtype), *output[1:])
        return output + push.vector.to(output.dtype)

    handle = base.blocks[push.layer].register_forward_hook(add)
    try:
        return logits(base, ids)
    finally:
        handle.remove()


def run(steering: Steering, slots: torch.Tensor, forward, mask: torch.Tensor | None = None):
    """One routed forward pass."""
    with steering.attach():
        steering.route(slots, mask)
        return forward()


def hooks_of(base: Base) -> int:
    return sum(len(module._forward_hooks) for module in base.model.modules())


@architectures
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coefficient_0_is_bit_identical_to_no_hook(architecture, dtype):
    base = tiny_base(architecture, dtype=dtype)
    ids = random_ids(3, 7)
    plain = logits(base, ids)
    steering = steering_of(base, [Push(layer=k, vector=0.0 * vector(k)) for k in range(LAYERS)])
    for slots in (torch.tensor([0, 0, 0]), torch.tensor([1, 2, 4])):
        with steering.attach():
            steering.route(slots)
            assert torch.equal(logits(base, ids).view(torch.uint8), plain.view(torch.uint8))


def test_adding_nothing_keeps_the_sign_of_a_zero():
    blocks = nn.ModuleList([nn.Identity()])
    half = Push(layer=0, vector=torch.tensor([0.0, 1.0, -0.0]))
    steering = Steering(blocks, [half], device=torch.device("cpu"), dtype=torch.float32)
    x = torch.tensor([-0.0, 0.0, -0.0]).expand(2, 1, 3)
    with steering.attach():
        steering.route(torch.tensor([0, 1]))
        out = blocks[0](x)
    assert torch.equal(out.signbit(), torch.tensor([[[1, 0, 1]], [[1, 0, 1]]], dtype=torch.bool))
    assert out[1, 0, 1] == 1.0


@architectures
def test_a_direction_and_its_opposite_cancel(architecture):
    base = tiny_base(architecture, dtype=torch.float64)
    ids = random_ids(2, 6)
    there = steering_of(base, [Push(layer=2, vector=vector(1))])
    back = steering_of(base, [Push(layer=2, vector=-vector(1))])
    with there.attach(), back.attach():
        there.route(torch.tensor([1, 1]))
        back.route(torch.tensor([1, 1]))
        both = logits(base, ids)
    torch.testing.assert_close(both, logits(base, ids), rtol=0, atol=1e-12)


@architectures
def test_every_row_gets_its_own_direction_and_layer(architecture):
    base = tiny_base(architecture)
    pushes = three_pushes()
    ids = random_ids(5, 8)
    slots = [2, 0, 1, 3, 2]
    steering = steering_of(base, pushes)
    with steering.attach():
        steering.route(torch.tensor(slots))
        mixed = logits(base, ids)
    for row, slot in enumerate(slots):
        alone = by_hand(base, ids[row : row + 1], pushes[slot - 1] if slot else None)
        torch.testing.assert_close(mixed[row], alone[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(mixed, logits(base, ids), atol=0.1)


@architectures
def test_a_left_padded_batch_equals_its_rows_alone(architecture):
    base = tiny_base(architecture)
    pushes = three_pushes()
    lengths, slots = (9, 4, 6), (1, 2, 3)
    rows = [random_ids(1, n, seed=n) for n in lengths]
    width = max(lengths)
    ids = torch.full((3, width), base.pad_id)
    mask = torch.zeros(3, width, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, width - row.shape[1] :] = row
        mask[place, width - row.shape[1] :] = True
    steering = steering_of(base, pushes)
    with steering.attach():
        steering.route(torch.tensor(slots), mask)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        padded = logits(base, ids, attention_mask=mask.long(), position_ids=positions)
    for place, (row, slot) in enumerate(zip(rows, slots, strict=True)):
        alone = by_hand(base, row, pushes[slot - 1])
        torch.testing.assert_close(
            padded[place, width - row.shape[1] :], alone[0], rtol=1e-4, atol=1e-4
        )
    # Pads were never pushed.
    audit = steering.audit()
    assert [slot.positions for slot in audit.slots] == [9, 4, 6]
    assert tuple(steering.audit_of(slot) for slot in (1, 2, 3)) == audit.parts


@architectures
def test_cached_decoding_equals_one_forward_pass_over_everything(architecture):
    base = tiny_base(architecture)
    ids = random_ids(2, 9)
    steering = steering_of(base, three_pushes())
    with steering.attach(), torch.no_grad():
        steering.route(torch.tensor([1, 2]))
        whole = base.model(input_ids=ids, use_cache=False).logits
        step = base.model(input_ids=ids[:, :5], use_cache=True)
        pieces = [step.logits]
        for place in range(5, 9):
            step = base.model(
                input_ids=ids[:, place : place + 1],
                **handed(base.model, kept(step)),
                use_cache=True,
            )
            pieces.append(step.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)


def _gradients(mode: bool | None) -> dict[str, torch.Tensor]:
    """Gradients of the first block; `mode` is use_reentrant, None for no checkpointing."""
    base = tiny_base("llama", dtype=torch.float64)
    pushes = [Push(layer=k, vector=vector(k, 3.0)) for k in (0, 2)]
    weights = dict(base.blocks[0].named_parameters())
    for weight in base.model.parameters():
        weight.requires_grad_(True)
    steering = steering_of(base, pushes)
    with steering.attach():
        steering.route(torch.tensor([1, 2]))
        hidden = base.model.get_input_embeddings()(random_ids(2, 7))
        position = base.model.model.rotary_emb(hidden, torch.arange(7)[None])
        for block in base.blocks:
            # Around __call__: the hook is inside and runs again in the backward pass.
            call = partial(block, position_embeddings=position)
            hidden = call(hidden) if mode is None else checkpoint(call, hidden, use_reentrant=mode)
        with steering.replaying():
            hidden.square().mean().backward()
    # Recomputation was not counted as firing.
    assert steering.audit().firings == {0: 1, 2: 1}
    assert [slot.positions for slot in steering.audit().slots] == [7, 7]
    return {name: weight.grad.clone() for name, weight in weights.items()}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_around_the_hook_leaves_gradients_and_counts_alone(reentrant):
    plain = _gradients(None)
    saving = _gradients(reentrant)
    for name, gradient in plain.items():
        assert gradient.abs().max() > 1e-9
        torch.testing.assert_close(saving[name], gradient, rtol=0, atol=1e-12)


@architectures
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_checkpointing_of_transformers_leaves_gradients_alone(architecture, reentrant):
    def gradients(saving: bool) -> torch.Tensor:
        base = tiny_base(architecture, dtype=torch.float64)
        steering = steering_of(base, three_pushes())
        inputs = base.model.get_input_embeddings()(random_ids(2, 7)).requires_grad_(True)
        if saving:
            base.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            for block in base.blocks:
                block.training = True
        with steering.attach():
            steering.route(torch.tensor([1, 2]))
            output = base.model(inputs_embeds=inputs, use_cache=False).logits
            with steering.replaying():
                output.square().mean().backward()
        assert steering.audit().firings == {1: 1, 2: 1}
        return inputs.grad

    plain = gradients(saving=False)
    assert plain.abs().max() > 1e-9
    torch.testing.assert_close(gradients(saving=True), plain, rtol=0, atol=1e-12)


def test_the_audit_measures_what_arrived():
    base = tiny_base("qwen2")
    pushes = three_pushes()
    ids = random_ids(3, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[2, :2] = False
    steering = steering_of(base, pushes)
    with steering.attach(), record(base.blocks, [1, 2], torch.tensor([5, 5, 5])):
        steering.route(torch.tensor([1, 0, 2]), mask)
        logits(base, ids)
    audit = steering.audit()
    assert audit.firings == {1: 1, 2: 1}
    assert [slot.positions for slot in audit.slots] == [6, 4, 0]
    states = base.model(input_ids=ids, output_hidden_states=True).hidden_states
    first = audit.slots[0]
    assert first.push_norm == pytest.approx(float(pushes[0].vector.norm()), rel=1e-5)
    assert first.residual_norm == pytest.approx(float(states[2][0].norm(dim=-1).mean()), rel=1e-5)
    assert first.ratio == pytest.approx(first.push_norm / first.residual_norm)
    unused = audit.slots[2]
    assert (unused.residual_norm, unused.push_norm, unused.ratio) == (None, None, None)


def test_a_sampled_audit_counts_every_firing():
    base = tiny_base()
    steering = steering_of(base, three_pushes(), audit_every=3)
    with steering.attach():
        steering.route(torch.tensor([1, 1]))
        for _ in range(7):
            logits(base, random_ids(2, 5))
    audit = steering.audit()
    assert audit.firings == {1: 7, 2: 7}
    assert audit.slots[0].positions == 3 * 2 * 5


def test_precision_that_swallows_a_push_shows_in_the_audit():
    base = tiny_base(dtype=torch.bfloat16)
    steering = steering_of(base, [Push(layer=1, vector=torch.full((HIDDEN,), 1e-3))])
    with steering.attach():
        steering.route(torch.tensor([1]))
        logits(base, random_ids(1, 20))
    achieved = steering.audit().slots[0].push_norm
    assert achieved is not None
    assert abs(achieved / (1e-3 * HIDDEN**0.5) - 1) > 0.05


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_a_layer_that_does_not_exist_is_an_error(layer):
    base = tiny_base()
    with pytest.raises(SteeringError, match=rf"no layer \[{layer}\]: the model has layers 0 to 3"):
        steering_of(base, [Push(layer=layer, vector=vector(0))])
    with (
        pytest.raises(SteeringError, match="layers 0 to 3"),
        record(base.blocks, [layer], torch.tensor([0])),
    ):
        pass


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_direction_that_is_not_finite_is_an_error(bad):
    broken = vector(0).index_fill(0, torch.tensor(3), bad)
    with pytest.raises(SteeringError, match=r"slot \[2\] holds NaN or infinite"):
        steering_of(tiny_base(), [three_pushes()[0], Push(layer=1, vector=broken)])


def test_a_direction_of_another_width_is_an_error():
    base = tiny_base()
    narrow = steering_of(base, [Push(layer=1, vector=torch.ones(1))])
    with pytest.raises(SteeringError, match="1 wide, the residual 32"):
        run(narrow, torch.tensor([1]), lambda: logits(base, random_ids(1, 3)))
    with pytest.raises(SteeringError, match="different widths"):
        steering_of(base, [*three_pushes(), Push(layer=1, vector=torch.ones(1))])


def test_a_hook_that_never_fired_is_an_error():
    base = tiny_base()
    steering = steering_of(base, three_pushes())
    with pytest.raises(SteeringError, match=r"never fired at layer \[1, 2\]"):
        run(steering, torch.tensor([1]), lambda: None)
    hidden = torch.zeros(1, 2, HIDDEN)
    position = base.model.model.rotary_emb(hidden, torch.arange(2)[None])
    with pytest.raises(SteeringError, match=r"never fired at layer \[2\]"):
        run(
            steering,
            torch.tensor([1]),
            lambda: base.blocks[1](hidden, position_embeddings=position),
        )
    with steering.attach():
        pass  # Nothing was routed, so nothing had to fire.


def test_a_recorder_that_saw_nothing_is_an_error():
    base = tiny_base()
    with (
        pytest.raises(SteeringError, match=r"no forward pass went through layer \[2\]"),
        record(base.blocks, [2], torch.tensor([0])),
    ):
        pass


def test_a_forward_pass_before_routing_is_an_error():
    base = tiny_base()
    steering = steering_of(base, three_pushes())
    with steering.attach(), pytest.raises(SteeringError, match="call route"):
        logits(base, random_ids(1, 3))
    with steering.attach():
        steering.route(torch.tensor([1]))
        logits(base, random_ids(1, 3))
    # The routing does not outlive the attachment.
    with steering.attach(), pytest.raises(SteeringError, match="call route"):
        logits(base, random_ids(1, 3))


@pytest.mark.parametrize(
    ("slots", "mask", "batch"),
    [
        (torch.tensor([1, 1]), None, (3, 4)),
        (torch.tensor([1, 1]), torch.ones(2, 4, dtype=torch.bool), (2, 5)),
    ],
)
def test_a_batch_of_another_shape_than_was_routed_is_an_error(slots, mask, batch):
    base = tiny_base()
    steering = steering_of(base, three_pushes())
    with pytest.raises(SteeringError, match="route again"):
        run(steering, slots, lambda: logits(base, random_ids(*batch)), mask)


def test_a_slot_that_does_not_exist_is_an_error():
    steering = steering_of(tiny_base(), three_pushes())
    for slot in (-1, 4):
        with pytest.raises(SteeringError, match="there are 3 pushes"):
            steering.route(torch.tensor([0, slot]))
    with pytest.raises(SteeringError, match="2 slots for a mask of 3 rows"):
        steering.route(torch.tensor([0, 1]), torch.ones(3, 2, dtype=torch.bool))


def test_after_an_exception_only_its_own_hooks_are_gone():
    base = tiny_base()
    ids = random_ids(2, 4)
    plain = logits(base, ids)
    seen = []
    other = base.blocks[1].register_forward_hook(lambda *_: seen.append(1))
    steering = steering_of(base, three_pushes())

    def interrupted():
        assert hooks_of(base) == 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(steering, torch.tensor([1, 2]), interrupted)
    assert hooks_of(base) == 1
    assert torch.equal(logits(base, ids), plain)
    assert seen == [1]
    with steering.attach():
        steering.route(torch.tensor([1, 2]))
        assert not torch.equal(logits(base, ids), plain)
    other.remove()


def test_hooks_are_attached_entirely_or_not_at_all(monkeypatch):
    base = tiny_base()

    def refuse(*_args, **_options):
        raise RuntimeError("no more hooks")

    monkeypatch.setattr(base.blocks[2], "register_forward_hook", refuse)
    with (
        pytest.raises(RuntimeError, match="no more hooks"),
        steering_of(base, three_pushes()).attach(),
    ):
        pytest.fail("attached by half")
    assert hooks_of(base) == 0


def test_attaching_twice_is_an_error():
    steering = steering_of(tiny_base(), three_pushes())
    with (
        steering.attach(),
        pytest.raises(SteeringError, match="attached already"),
        steering.attach(),
    ):
        pass


@architectures
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_it_steers_a_model_wrapped_by_peft(architecture):
    base = tiny_base(architecture)
    ids = random_ids(2, 5)
    push = three_pushes()[0]
    expected = [by_hand(base, ids[:1], push)[0], logits(base, ids[1:])[0]]
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(base.model, config).eval()
    path, blocks = find_blocks(wrapped)
    assert path.endswith(base.block_path)
    steering = Steering(blocks, [push], device=base.device, dtype=base.dtype)
    with steering.attach(), torch.no_grad():
        steering.route(torch.tensor([1, 0]))
        steered = wrapped(input_ids=ids).logits
    # A new LoRA has B = 0, so it changes nothing.
    for row in (0, 1):
        torch.testing.assert_close(steered[row], expected[row], rtol=1e-4, atol=1e-4)


Pair = namedtuple("Pair", "hidden cache")


@pytest.mark.parametrize("kind", [tuple, Pair])
def test_tuples_keep_their_type_and_their_other_items(kind):
    class Block(nn.Module):
        def forward(self, x):
            return Pair(x, "cache") if kind is Pair else (x, "cache")

    blocks = nn.ModuleList([Block()])
    push = Push(layer=0, vector=torch.ones(2))
    steering = Steering(blocks, [push], device=torch.device("cpu"), dtype=torch.float32)
    with steering.attach():
        steering.route(torch.tensor([1]))
        out = blocks[0](torch.zeros(1, 1, 2))
    assert type(out) is kind
    assert out[1] == "cache"
    assert out[0].tolist() == [[[1.0, 1.0]]]


@pytest.mark.parametrize("output", [None, {"hidden": 1}, [torch.zeros(1)], ("x",), ()])
def test_an_output_that_cannot_be_steered_is_an_error(output):
    with pytest.raises(SteeringError, match="can be steered"):
        block_hidden(output)


@architectures
def test_recording_reads_one_position_per_row_after_the_block(architecture):
    base = tiny_base(architecture)
    ids = random_ids(3, 6)
    positions = torch.tensor([5, 0, 3])
    with record(base.blocks, [0, 2], positions) as seen:
        states = base.model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in (0, 2):
        expected = states[layer + 1][torch.arange(3), positions]
        assert seen[layer].dtype == torch.float32
        torch.testing.assert_close(seen[layer], expected, rtol=0, atol=0)


def test_a_recorder_removes_its_hooks():
    base = tiny_base()
    with record(base.blocks, [0, 2], torch.tensor([1])):
        assert hooks_of(base) == 2
        logits(base, random_ids(1, 3))
    assert hooks_of(base) == 0


def test_a_recorder_attached_after_the_steering_sees_the_push():
    base = tiny_base()
    ids, last = random_ids(1, 4), torch.tensor([3])
    push = three_pushes()[0]
    with record(base.blocks, [1], last) as plain:
        logits(base, ids)
    steering = steering_of(base, [push])
    with steering.attach(), record(base.blocks, [1], last) as steered:
        steering.route(torch.tensor([1]))
        logits(base, ids)
    torch.testing.assert_close(steered[1], plain[1] + push.vector)
    with (
        pytest.raises(SteeringError, match="1 positions to record, but a batch of 2"),
        record(base.blocks, [1], last),
    ):
        logits(base, random_ids(2, 4))


# Python 3.13.0 has slower dictionaries than 3.13.1, and torch says so.
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")
def test_a_compiled_forward_sees_every_new_routing():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Identity() for _ in range(LAYERS))

        def forward(self, x):
            for block in self.blocks:
                x = 2 * block(x)
            return x

    model = Stack()
    pushes, x = three_pushes(), torch.ones(2, 5, HIDDEN)
    steering = Steering(model.blocks, pushes, device=torch.device("cpu"), dtype=torch.float32)
    compiled = torch.compile(model, backend="eager")
    with steering.attach(), torch.no_grad():
        memory = set()
        for slots in ([1, 2], [3, 0], [2, 2]):
            steering.route(torch.tensor(slots))
            memory.add(steering._routes._index.on(torch.device("cpu")).data_ptr())
            expected = torch.stack(
                [
                    16 * x[0] + (2 ** (4 - pushes[s - 1].layer) * pushes[s - 1].vector if s else 0)
                    for s in slots
                ]
            )
            torch.testing.assert_close(compiled(x), expected)
    # The routing is always read from where a captured graph would look for it.
    assert len(memory) == 1
