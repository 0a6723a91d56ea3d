"""Adapters carried side by side, as to and from a GPU, are those carried one by one."""

import threading

import pytest
import torch

from steerproof.engine.lora import carried
from steerproof.engine.lora.peft_files import read_peft
from steerproof.engine.lora.pool import LoraPool
from steerproof.engine.lora.weights import (
    LoraSpec,
    LoraWeights,
    fresh_adapters,
    fresh_weights,
    is_all_zero,
    lora_sites,
)
from tests.engine.test_lora import SPEC, adapter, save
from tests.tiny import tiny_base

BASE = tiny_base()
SITES = lora_sites(BASE)
NARROW = LoraSpec(rank=2, alpha=6.0, rslora=True)
PART = LoraSpec(rank=4, alpha=8.0, rslora=True, targets=tuple(s.path for s in SITES[1::2]))


def partial_adapter() -> LoraWeights:
    kept = {key for site in SITES[1::2] for key in site.keys}
    tensors = {key: t for key, t in adapter(BASE, 5).tensors.items() if key in kept}
    return LoraWeights(spec=PART, tensors=tensors)


def mixed_types() -> LoraWeights:
    tensors = dict(adapter(BASE, 6).tensors)
    tensors[SITES[0].a_key] = tensors[SITES[0].a_key].double()
    return LoraWeights(spec=SPEC, tensors=tensors)


ADAPTERS = {
    "whole": lambda: adapter(BASE, 1),
    "narrower and scaled": lambda: adapter(BASE, 2, NARROW),
    "of some layers": partial_adapter,
    "of two number types": mixed_types,
    "new": lambda: next(fresh_adapters(SITES, SPEC, (3,))),
}


def far(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the CPU be as far as a GPU is; returns how many matrices travelled each time."""
    travelled: list[int] = []
    parts = carried._parts

    def counted(whole, like):
        travelled.append(len(like))
        return parts(whole, like)

    monkeypatch.setattr(carried, "_near", lambda _device: False)
    monkeypatch.setattr(carried, "_parts", counted)
    return travelled


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ADAPTERS)
def test_what_lies_in_a_slot_does_not_depend_on_how_it_came(name, dtype, monkeypatch):
    pool, other = (LoraPool(BASE, slots=2, spec=SPEC, dtype=dtype) for _ in range(2))
    pool.load(2, ADAPTERS[name]())
    before = pool.read(2)
    travelled = far(monkeypatch)
    other.load(2, adapter(BASE, 9))  # what was there before is gone
    other.load(2, ADAPTERS[name]())
    after = other.read(2)
    for mine, theirs in zip(pool.shares, other.shares, strict=True):
        assert torch.equal(mine, theirs)
    assert before.tensors.keys() == after.tensors.keys()
    for key, tensor in before.tensors.items():
        assert torch.equal(tensor, after.tensors[key])
        assert after.tensors[key].is_contiguous()
        assert after.tensors[key].dtype == torch.float32
    half = {"of two number types": [], "new": [len(SITES)]}
    asked = half.get(name, [len(ADAPTERS[name]().tensors)])
    assert travelled == [2 * len(SITES), *asked, 2 * len(SITES)]


def test_an_adapter_that_was_read_in_one_piece_is_written_as_the_same_bytes(tmp_path, monkeypatch):
    pool = LoraPool(BASE, slots=1, spec=SPEC)
    pool.load(1, adapter(BASE, 1))
    far(monkeypatch)
    monkeypatch.setattr(carried, "_AT_A_TIME", 1000)  # and in many pieces by threads
    place = save(tmp_path / "one", BASE, pool.read(1, pool.room()))
    other = save(tmp_path / "other", BASE, adapter(BASE, 1))
    for file in place.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()
    back = read_peft(place, BASE).tensors
    assert all(torch.equal(t, back[key]) for key, t in adapter(BASE, 1).tensors.items())


def test_only_what_is_zero_over_and_over_is_left_out():
    assert is_all_zero(torch.zeros(()).expand(3, 4))
    assert not is_all_zero(torch.ones(()).expand(3, 4))
    assert not is_all_zero(torch.zeros(3, 4))
    assert not is_all_zero(torch.zeros(3, 1).expand(3, 4))


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_adapters_are_drawn_ahead_and_they_are_those_drawn_alone(ahead):
    asked = []

    def seeds():
        for seed in range(5):
            asked.append(seed)
            yield seed

    drawn = fresh_adapters(SITES, SPEC, seeds(), ahead=ahead)
    for seed, weights in enumerate(drawn):
        assert len(asked) == min(5, seed + 1 + ahead)
        alone = fresh_weights(SITES, SPEC, seed).tensors
        assert all(torch.equal(t, alone[key]) for key, t in weights.tensors.items())
        assert list(weights.tensors) == list(alone)
    assert asked == list(range(5))


def test_new_adapters_are_drawn_with_no_more_threads_than_numbers_are_worked_on_with() -> None:
    before, allowed = set(threading.enumerate()), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        adapters = fresh_adapters(SITES, SPEC, (3, 4, 5), ahead=2)
        next(adapters)
        assert len(set(threading.enumerate()) - before) == 1
        assert len(list(adapters)) == 2
    finally:
        torch.set_num_threads(allowed)


@pytest.mark.parametrize(
    "given", [torch.randn(7, 3)[:, :1], torch.randn(8)[::2], torch.ones(()).expand(3, 4)]
)
def test_matrices_that_are_parts_of_others_travel_too(given, monkeypatch):
    far(monkeypatch)
    there = carried.to_device({"a": torch.randn(2, 5), "b": given}, torch.device("cpu"))
    assert torch.equal(there["b"], given)
    assert there["a"].shape == (2, 5)
