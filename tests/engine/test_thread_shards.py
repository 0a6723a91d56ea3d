"""Shards: threads that end with their consumer, replicas that share weights and nothing else."""

import threading
import time
from collections import Counter
from itertools import count

import pytest
import torch

from steerproof.engine.lora.pool import LoraPool, LoraSpec
from steerproof.engine.shards import (
    MOST_SHARDS,
    StoppedError,
    Supply,
    divided_threads,
    replica,
    shard_count,
    side_by_side,
)
from steerproof.errors import SteeringError
from steerproof.model.steering import Push, Steering
from tests.tiny import ARCHITECTURES, HIDDEN, tiny_base

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads():
    """Four torch threads; afterwards no shard is left and the number is what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    assert not [t for t in threading.enumerate() if t.name.startswith("shard")]
    torch.set_num_threads(before)


def endless(sent, send):
    for number in count():
        send(number)
        sent.append(number)


def test_items_of_all_works_come_in_each_work_s_order():
    def work(name):
        return lambda send: [send((name, number)) for number in range(500)]

    found = list(side_by_side([work("a"), work("b"), work("c")]))
    assert Counter(name for name, _ in found) == {"a": 500, "b": 500, "c": 500}
    assert [n for name, n in found if name == "b"] == list(range(500))


def test_works_run_at_once_each_with_its_part_of_torch_s_threads():
    meeting = threading.Barrier(2)

    def work(send):
        meeting.wait(timeout=60)  # Fails unless both are running.
        send(torch.get_num_threads())

    found = side_by_side([work, work])
    assert [next(found), torch.get_num_threads()] == [2, 2]
    assert list(found) == [2]
    with divided_threads(3) as each:
        assert [each, torch.get_num_threads()] == [1, 1]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_error_in_one_work_stops_the_others_and_is_raised(error):
    sent = []

    def broken(send):
        send(-1)
        raise error

    with pytest.raises(type(error)):
        list(side_by_side([lambda send: endless(sent, send), broken]))
    ended = len(sent)
    time.sleep(0.05)
    assert len(sent) == ended


def test_closing_the_iterator_stops_works_whether_they_wait_or_not():
    sent, unwound = [], []

    def careful(send):
        try:
            endless(sent, send)
        except StoppedError:
            unwound.append(True)
            raise

    found = side_by_side([careful, careful, lambda send: send(0)])
    next(found)
    time.sleep(0.2)  # Long enough for both to wait for a consumer that is far behind.
    assert 64 < len(sent) < 1000
    found.close()
    assert unwound == [True, True]


def test_an_error_in_the_consumer_ends_the_threads():
    found = side_by_side([lambda send: endless([], send)] * 2)
    next(found)
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt())


def test_shards_are_for_several_threads_of_a_cpu():
    assert shard_count(CPU, 10) == min(4, MOST_SHARDS)
    assert [shard_count(CPU, most) for most in (0, 1, 2)] == [1, 1, 2]
    assert shard_count(torch.device("cuda"), 10) == 1
    with divided_threads(4):
        assert shard_count(CPU, 10) == 1


def test_a_supply_deals_evenly_and_gives_what_waits_longer_than_a_shard_has_in_hand():
    supply = Supply([5, 1, 1, 1, 3, 2, 2, 2], lambda size: size, 2)
    assert [supply.take(0, load=100) for _ in range(5)] == [5, 1, 1, 1, None]
    assert supply.take(0, load=9) is None
    assert [supply.take(0, load) for load in (0, 2, 4, 6)] == [2, 2, 2, None]
    assert [supply.take(1, load=100) for _ in range(2)] == [3, None]
    assert supply.take(0, load=0) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_replica_shares_every_weight_and_no_module(architecture):
    base = tiny_base(architecture)
    other = replica(base)
    tensors = [*base.model.parameters(), *base.model.buffers()]
    assert all(
        a is b
        for a, b in zip(tensors, [*other.model.parameters(), *other.model.buffers()], strict=True)
    )
    assert not set(map(id, base.model.modules())) & set(map(id, other.model.modules()))
    assert other.model.config is not base.model.config
    assert other.blocks is other.model.get_submodule(base.block_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = base.model(input_ids=ids).logits
        other.blocks[0].register_forward_hook(lambda _m, _a, _out: None)
        assert torch.equal(other.model(input_ids=ids).logits, expected)
    assert not base.blocks[0]._forward_hooks


def test_a_replica_of_a_pool_has_its_weights_and_a_routing_of_its_own():
    base = tiny_base()
    pool = LoraPool(base, slots=2, spec=LoraSpec(rank=2, alpha=4.0, rslora=False))
    other = pool.replica(replica(base))
    assert other.weights is pool.weights
    pool.route(torch.tensor([0]))
    assert other._routing is None
    with pool.attach(), other.attach():
        assert other.sites[0].module is not pool.sites[0].module


def test_what_replicas_of_a_steering_count_is_in_its_audit_once():
    base = tiny_base()
    push = Push(layer=1, vector=torch.ones(HIDDEN))
    steering = Steering(base.blocks, [push], device=base.device, dtype=base.dtype)

    def fire(one, model):
        with one.attach(), torch.no_grad():
            one.route(torch.tensor([1, 0]))
            model(input_ids=torch.tensor([[1, 2, 3], [4, 5, 6]]))

    fire(steering, base.model)
    for _ in range(2):
        copied = replica(base)
        with steering.replica(copied.blocks) as other:
            fire(other, copied.model)
            inside = steering.audit()
        assert steering.audit() == inside
    assert steering.audit().firings == {1: 3}
    assert steering.audit().slots[0].positions == 9
    assert steering.audit().slots[0].push_norm == pytest.approx(HIDDEN**0.5, rel=1e-5)
    with (
        steering.attach(),
        pytest.raises(SteeringError, match="attached already"),
        steering.replica(base.blocks),
    ):
        pass
