"""Where the blocks of a base over several devices go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from steerproof.errors import ModelError
from steerproof.model.base import find_blocks, load_base
from steerproof.model.split import Spread, deal_out, devices_named, placement, stretches
from tests.tiny import LAYERS, save_tiny, tiny_base, tiny_model


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=100),
    st.integers(0, 5000),
    st.integers(1, 8),
)
def test_blocks_lie_in_order_and_no_device_has_much_more_than_its_share(sizes, rest, devices):
    places = stretches(sizes, rest, devices)
    assert len(places) == len(sizes)
    assert places == sorted(places)
    assert set(places) <= set(range(devices))
    loads = [rest * (device == 0) for device in range(devices)]
    for size, place in zip(sizes, places, strict=True):
        loads[place] += size
    share = (rest + sum(sizes)) / devices
    assert loads[0] <= max(share, rest) + max(sizes)
    assert all(load <= share + max(sizes) for load in loads[1:])


def test_equal_blocks_over_two_devices_are_halved():
    assert stretches([10] * 6, 0, 2) == [0, 0, 0, 1, 1, 1]
    assert stretches([10] * 6, 20, 2) == [0, 0, 1, 1, 1, 1]
    assert stretches([10] * 6, 100, 2) == [1] * 6


@pytest.mark.parametrize(
    ("named", "devices"),
    [
        ("cpu", ["cpu"]),
        ("cuda", ["cuda"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:0+1", ["cuda:0", "cuda:1"]),
    ],
)
def test_a_text_names_one_device_or_several(named, devices):
    assert devices_named(named) == tuple(map(torch.device, devices))


@pytest.mark.parametrize("named", ["cuda:0+", "cuda:+1", "cuda:0+x", "gpu", "cuda:1+1", ""])
def test_what_names_no_device_is_refused_with_what_does(named):
    with pytest.raises(ModelError, match=r"cuda:0\+1|twice"):
        devices_named(named)


def test_more_gpus_than_blocks_to_deal_are_refused():
    model = tiny_model("qwen2")
    devices = [torch.device("cpu", number) for number in range(LAYERS + 2)]
    with pytest.raises(ModelError, match="name fewer GPUs"):
        placement(model, find_blocks(model)[1], devices)


def test_on_one_device_a_base_has_no_hooks_and_its_weights_stay_tied():
    model = tiny_model("gemma")
    deal_out(model, find_blocks(model)[1], devices_named("cpu"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    hooked = [
        module
        for module in tiny_base("gemma").model.modules()
        if module._forward_pre_hooks or module._forward_hooks
    ]
    assert not hooked


def test_a_loaded_model_is_dealt_out_with_its_buffers(tmp_path):
    base = load_base(save_tiny(tmp_path), dtype="float64")
    assert base.dtype == torch.float64
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, plain(ids).logits)
    kept = {name for name, _ in base.model.named_buffers()}
    assert kept == {name for name, _ in plain.named_buffers()}
    assert base.model.state_dict().keys() == plain.state_dict().keys()


def test_a_spread_value_is_itself_at_home():
    value, weights = torch.ones(3), nn.Linear(2, 2)
    assert Spread(value, torch.device("cpu")).on(torch.device("cpu")) is value
    assert Spread(weights, torch.device("cpu")).on(torch.device("cpu")) is weights
