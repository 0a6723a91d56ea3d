"""Merged weights against the separate products, and against the bare base."""

import pytest
import torch

from steerproof.engine.lora.merged import mergeable, merged
from steerproof.engine.lora.pool import LoraPool
from steerproof.engine.lora.weights import LoraSpec
from steerproof.errors import ModelError
from tests.engine.subjects import ADAPTERS, base_of, subject
from tests.tiny import random_ids


def logits(base, ids):
    return base.model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
@pytest.mark.parametrize("slots", [[0, 0, 1, 1, 3], [2, 2, 2, 2, 2], [0] * 5, [1, 2, 3, 3, 3]])
def test_merged_weights_give_the_logits_of_the_separate_products(architecture, slots):
    made = subject(architecture)
    base, pool, ids = made.base, made.adapters, random_ids(5, 7)
    bare = logits(base, ids)
    with pool.attach():
        pool.route(torch.tensor(slots))
        separate = logits(base, ids)
    with merged(pool):
        pool.route(torch.tensor(slots))
        whole = logits(base, ids)
    torch.testing.assert_close(whole, separate, atol=3e-5, rtol=1e-4)
    none = torch.tensor(slots) == 0
    torch.testing.assert_close(whole[none], bare[none], atol=3e-6, rtol=1e-5)
    assert bool(((whole - bare).abs().amax(dim=(1, 2)) > 0.1)[~none].all())
    assert torch.equal(logits(base, ids), bare)


def test_an_adapter_of_a_lower_rank_and_another_scale_keeps_its_own():
    base = base_of("qwen2")
    wide = LoraPool(base, slots=1, spec=LoraSpec(rank=6, alpha=4.0, rslora=False))
    wide.load(1, subject("qwen2").adapters.read(2))
    ids = random_ids(2, 7)
    with torch.no_grad():
        with wide.attach():
            wide.route(torch.tensor([1, 1]))
            separate = logits(base, ids)
        with merged(wide):
            wide.route(torch.tensor([1, 1]))
            torch.testing.assert_close(logits(base, ids), separate, atol=3e-5, rtol=1e-4)


def test_only_float32_on_a_cpu_that_fits_is_merged(monkeypatch):
    assert mergeable(subject("qwen2").adapters)
    assert not mergeable(subject("qwen2", torch.bfloat16).adapters)
    monkeypatch.setattr("steerproof.engine.lora.merged._SHARE_OF_MEMORY", 0.0)
    assert not mergeable(subject("qwen2").adapters)


def test_a_pool_is_not_attached_twice():
    pool = subject("qwen2").adapters
    assert pool.loaded == frozenset(range(1, ADAPTERS + 1))
    with pool.attach(), pytest.raises(ModelError, match="already"), merged(pool):
        pass
    with merged(pool), pytest.raises(ModelError, match="call route"):
        logits(pool.base, random_ids(1, 3))
