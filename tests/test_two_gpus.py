"""A base over two GPUs computes what it computes on one; needs two.

In float32 the two differ by rounding alone: another batch shape, sums by atomics. In bfloat16 both
are held to float32 on one GPU: split may be off by 1.5 times what one GPU is, and a little.
"""

import pytest
import torch

from steerproof.engine.train import Pooling
from steerproof.model.base import base_of, find_blocks, load_base
from steerproof.model.split import deal_out, devices_of
from tests.engine import split_work
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

ONE, BOTH = ["cuda:0"], ["cuda:0", "cuda:1"]
ARCHITECTURES = ["llama", "qwen2"]

pytestmark = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two CUDA GPUs of one host"
)


def base_on(devices, architecture, dtype):
    model = tiny_model(architecture, dtype=dtype)
    deal_out(model, find_blocks(model)[1], [torch.device(name) for name in devices])
    base = base_of(model, tiny_tokenizer())
    assert devices_of(model) == tuple(map(torch.device, devices))
    torch.cuda.set_device(base.device)
    return base


def found(do, devices, architecture, dtype):
    base = base_on(devices, architecture, dtype)
    parts = do(base)
    assert torch.cuda.current_device() == base.device.index
    return [split_work.flat(part) for part in parts]


def apart(left, right):
    """Of each part the root mean square of the differences over that of the numbers; the worst."""
    worst = 0.0
    for one, other in zip(left, right, strict=True):
        a, b = (torch.tensor(x, dtype=torch.float64) for x in (one, other))
        assert a.shape == b.shape
        worst = max(worst, float((a - b).norm() / b.norm()))
    return worst


NUMBERS = {
    "directions": split_work.directions,
    "log-probabilities": lambda base: split_work.log_probs(base, "qwen2"),
    "margins": lambda base: split_work.margins(base, "qwen2"),
    "training": split_work.training,
    "training without dropout": lambda base: split_work.training(base, dropout=0.0),
    "training in pieces": lambda b: split_work.training(b, pooling=Pooling(tokens=64, adapters=2)),
    "training, recomputed": lambda b: split_work.training(b, pooling=Pooling(checkpointing=True)),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NUMBERS)
def test_two_gpus_give_what_one_gives_in_float32(name, architecture):
    one = found(NUMBERS[name], ONE, architecture, torch.float32)
    two = found(NUMBERS[name], BOTH, architecture, torch.float32)
    assert apart(two, one) < (1e-3 if "training" in name else 1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NUMBERS)
def test_two_gpus_round_no_more_than_one_in_bfloat16(name, architecture):
    truth = found(NUMBERS[name], ONE, architecture, torch.float32)
    one = found(NUMBERS[name], ONE, architecture, torch.bfloat16)
    two = found(NUMBERS[name], BOTH, architecture, torch.bfloat16)
    assert apart(two, truth) <= 1.5 * apart(one, truth) + 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_completions_and_audits_are_those_of_one_gpu(architecture):
    (one, seen), (two, both) = (
        split_work.completions(base_on(devices, architecture, torch.float32), "qwen2")
        for devices in (ONE, BOTH)
    )
    assert two == one
    assert split_work.flat(both) == pytest.approx(split_work.flat(seen), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_canaries_find_nothing_wrong(dtype):
    seen = split_work.canaries(base_on(BOTH, "qwen2", dtype), "qwen2")
    assert not [one for one in seen if isinstance(one, str)]


def test_hugging_faces_own_generate_runs_under_a_push():
    one, two = (
        split_work.plain_generation(base_on(devices, "qwen2", torch.float32))
        for devices in (ONE, BOTH)
    )
    assert two[:2] == one[:2]
    assert two[2] == pytest.approx(one[2], rel=1e-5)


def test_a_checkpoint_is_loaded_over_both_whichever_is_home(tmp_path):
    directory = save_tiny(tmp_path, "qwen2")
    before = torch.cuda.current_device()
    one = split_work.log_probs(load_base(directory, device="cuda:0"), "qwen2")
    try:
        for named in ("cuda:0+1", "cuda:1+0"):
            base = load_base(directory, device=named)
            assert len(devices_of(base.model)) == 2
            two = split_work.log_probs(base, "qwen2")
            assert apart([split_work.flat(two)], [split_work.flat(one)]) < 1e-4
    finally:
        torch.cuda.set_device(before)
