"""A base over two devices computes what it computes on one; devices are pretended on a CPU."""

import pytest
import torch
from torch import nn

from steerproof.engine.graphs import capturable
from steerproof.model.base import base_of
from steerproof.model.split import deal_out, devices_of
from tests.engine.definition import pack_on_a_cpu
from tests.engine.split_work import flat, training, work
from tests.pretended import AWAY, HOME, MixedDevicesError, pretended_devices
from tests.tiny import tiny_base, tiny_model, tiny_tokenizer

WORK = list(work("qwen2"))


def split_base(architecture):
    """Blocks on both pretended devices; only inside of `pretended_devices`."""
    model = tiny_model(architecture, dtype=torch.float64)
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    deal_out(model, blocks, [HOME, AWAY])
    base = base_of(model, tiny_tokenizer())
    assert base.device == HOME
    assert devices_of(model) == (HOME, AWAY)
    return base


def same(numbers):
    """The same up to the rounding of a sum in float64."""
    return pytest.approx(numbers, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "gemma"])
@pytest.mark.parametrize("name", WORK)
def test_two_devices_give_what_one_gives(architecture, name):
    """To the bit; in training the norm of a gradient is summed in another order."""
    do = work(architecture)[name]
    alone = flat(do(tiny_base(architecture, dtype=torch.float64)))
    with pretended_devices() as seen:
        base = split_base(architecture)
        before = seen.moves
        both = flat(do(base))
    assert both == (same(alone) if "training" in name else alone)
    assert len(both) > 4
    assert seen.moves > before


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_packed_rows_train_alike_on_two_devices(architecture, monkeypatch):
    pack_on_a_cpu(monkeypatch)
    alone = flat(training(tiny_base(architecture, dtype=torch.float64)))
    with pretended_devices():
        assert flat(training(split_base(architecture))) == same(alone)


def test_pretended_devices_are_told_apart():
    with pretended_devices():
        here, there = torch.ones(2, device=HOME), torch.ones(2).to(AWAY)
        assert (here.device, there.device, here[1:].device) == (HOME, AWAY, HOME)
        with pytest.raises(MixedDevicesError, match="both devices"):
            here + there
        assert (here.to(AWAY) + there).device == AWAY
        here.copy_(there)
        asked = torch.ones(2, device=HOME, requires_grad=True)
        (asked.to(AWAY) * there).sum().backward()
        assert asked.grad.device == HOME


def test_a_model_over_several_gpus_is_never_captured():
    assert capturable([torch.device("cuda", 0)])
    assert not capturable([torch.device("cuda", 0), torch.device("cuda", 1)])
    assert not capturable([torch.device("cpu")])
