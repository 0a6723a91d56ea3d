"""Layers with a common input, computed together, against the pool's own layers."""

import pytest
import torch

from steerproof.engine.lora.packed import packed, packed_modules, wrapped_packed
from steerproof.errors import ModelError
from tests.engine.subjects import subject
from tests.tiny import random_ids


def logits(made, slots, ids):
    made.adapters.route(torch.tensor(slots))
    return made.base.model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
@pytest.mark.parametrize("slots", [[0, 0, 1, 1, 3], [2, 2, 2, 2, 2], [0] * 5, [1, 2, 3, 3, 3]])
def test_together_they_give_the_logits_of_the_separate_layers(architecture, slots):
    made, ids = subject(architecture, torch.float64), random_ids(5, 7)
    with made.adapters.attach():
        separate = logits(made, slots, ids)
    with packed(made.adapters):
        found = logits(made, slots, ids)
    torch.testing.assert_close(found, separate, atol=1e-10, rtol=1e-9)


def test_queries_keys_and_values_and_the_gated_layers_share_their_input():
    made = subject("qwen2")
    names = [site.path.split(".")[-1] for site in made.adapters.sites]
    groups = [[names[place] for place in group] for group in packed_modules(made.adapters)]
    block = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert groups == block * len(made.base.blocks)


def test_another_input_is_computed_anew():
    made = subject("qwen2")
    layer = made.adapters.sites[0].module
    places = range(len(made.adapters.sites))
    with wrapped_packed(made.adapters, [((place,), lambda x: [x + 1]) for place in places]):
        for start in (1.0, 2.0, 2.0):
            assert float(layer(torch.tensor(start))) == start + 1


def test_a_pool_is_not_attached_twice():
    pool = subject("qwen2").adapters
    with pool.attach(), pytest.raises(ModelError, match="attached"), packed(pool):
        pass
