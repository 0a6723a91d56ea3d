"""How many adapters train at once on a GPU, and what they begin with."""

from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch

from steerproof.engine import budget
from steerproof.engine.jobs import Pooling
from steerproof.engine.lora.weights import LoraSpec, fresh_adapters, fresh_weights, lora_sites
from steerproof.model.base import Base
from tests.tiny import tiny_base

SPEC = LoraSpec(rank=4, alpha=8.0, rslora=False)


def test_memory_that_torch_keeps_for_what_comes_is_free_for_adapters(monkeypatch):
    gpu = torch.device("cuda:0")
    site = SimpleNamespace(device=gpu, inputs=1000, outputs=1000)
    base = create_autospec(Base, instance=True, device=gpu)
    monkeypatch.setattr(budget, "lora_sites", lambda _base: [site])
    each = SPEC.rank * 2000 * 18 / 0.4  # Bytes that must be free for an adapter.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (int(each * 2.5), 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: int(each * 3))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: int(each * 1))
    assert budget.adapters_at_once(base, SPEC, Pooling(), 16) == 4


def test_adapters_drawn_one_after_another_are_those_drawn_alone():
    sites = lora_sites(tiny_base())
    together = list(fresh_adapters(sites, SPEC, (5, 6, 7)))
    assert len(together) == 3
    for seed, weights in zip((5, 6, 7), together, strict=True):
        alone = fresh_weights(sites, SPEC, seed)
        assert weights.tensors.keys() == alone.tensors.keys()
        assert all(torch.equal(t, alone.tensors[key]) for key, t in weights.tensors.items())
    assert list(fresh_adapters(sites, SPEC, ())) == []


@pytest.mark.parametrize(
    ("jobs", "at_once"), [(1, 1), (16, 16), (17, 9), (26, 13), (52, 13), (48, 16), (156, 16)]
)
def test_as_many_adapters_train_each_time_and_no_more_times_than_sixteen_at_once_would(
    jobs, at_once
):
    base = tiny_base()
    assert budget.adapters_at_once(base, SPEC, Pooling(), jobs) == at_once
    assert -(-jobs // at_once) == -(-jobs // 16)
    assert budget.adapters_at_once(base, SPEC, Pooling(adapters=11), jobs) == min(11, jobs)
