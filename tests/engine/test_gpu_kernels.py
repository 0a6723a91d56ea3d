"""The GPU's kernels against what defines them: interpreted on a CPU, compiled on a GPU."""

import pytest
import torch

from tests.interpreted import interpreted

pytest.importorskip("triton", reason="Triton comes with torch for GPUs")

HERE = """
import torch, warnings
from tests.engine.test_gpu_kernels import CASES, check_attention, check_draw, check_bad_logits
device = torch.device("cpu")
check_attention(device, torch.float32, CASES[:2])
check_draw(device)
check_bad_logits(device)
"""


# Heads, heads of keys, width; programs that are enough: keys of a row go to eight of them, or one.
CASES = [((14, 2, 64), 512), ((4, 4, 80), 1), ((14, 2, 64), 1), ((28, 4, 128), 512)]


def check_attention(device, dtype, cases):
    """Against the plain definition, for groups and widths that are no powers of two.

    What was never written, the place of the newest key included, is NaN.
    """
    for sizes, programs in cases:
        _check_one_attention(device, dtype, sizes, programs)


def _check_one_attention(device, dtype, sizes, programs):
    from steerproof.engine.blocks import BLOCK_SIZE
    from steerproof.engine.cache import gpu_kernels as kernels
    from steerproof.engine.cache.paged import attention_over_blocks

    heads, kv_heads, width = sizes
    generator = torch.Generator().manual_seed(0)
    table = torch.randperm(60, generator=generator)[:45].view(5, 9).int()
    lengths = torch.tensor([1, 16, 17, 100, 144])
    full = [
        torch.randn(60, kv_heads, BLOCK_SIZE, width, generator=generator).to(dtype)
        for _ in range(2)
    ]
    held = [torch.full_like(blocks, float("nan")) for blocks in full]
    newest = []
    for blocks, known in zip(full, held, strict=True):
        new = torch.empty(kv_heads, 5, width, dtype=dtype).transpose(0, 1)
        for row, length in enumerate(lengths.tolist()):
            places = [(int(table[row, at // BLOCK_SIZE]), at % BLOCK_SIZE) for at in range(length)]
            for block, at in places[:-1]:
                known[block, :, at] = blocks[block, :, at]
            block, at = places[-1]
            new[row] = blocks[block, :, at]
        newest.append(new)
    query = torch.randn(heads, 5, width, generator=generator).to(dtype).transpose(0, 1)
    exact = [x.double() for x in (query, *full)]
    expected = attention_over_blocks(*exact, table, lengths, 0.1)
    moved = [x.to(device) for x in (query, *newest, *held, table, lengths)]
    unknown = [int(known.isnan().sum()) for known in held]
    usual, kernels._PROGRAMS = kernels._PROGRAMS, programs
    try:
        got = kernels.decode_attention(*moved, 0.1).cpu().double()
    finally:
        kernels._PROGRAMS = usual
    assert (got - expected).norm() < (1e-5 if dtype == torch.float32 else 1e-2) * expected.norm()
    for blocks, written, before in zip(full, moved[3:5], unknown, strict=True):
        left = written.cpu().isnan()
        assert int(left.sum()) == before - 5 * kv_heads * width
        assert torch.equal(torch.where(left, blocks, written.cpu()), blocks)


def check_draw(device):
    """Token for token what the definition draws."""
    from steerproof.engine.cache import gpu_kernels as kernels
    from steerproof.engine.sampling import _floor, _states
    from tests.engine.definition import drawn_by_definition

    generator = torch.Generator().manual_seed(0)
    for vocab, rows, spread in ((1000, 24, 2.0), (20000, 6, 3.0)):
        logits = torch.randn(rows, vocab, generator=generator) * spread
        seeds = torch.randint(0, 2**62, (rows,), generator=generator)
        steps = torch.arange(rows)
        for temperature, top_p in ((1.0, 0.95), (0.7, 0.5), (1.3, 1.0)):
            states = _states(seeds, steps).to(device)
            drawing = (temperature, top_p, _floor(top_p, vocab))
            owners = torch.arange(rows) // 3 * 2
            scaled = logits[owners] / temperature
            expected = drawn_by_definition(scaled, seeds, steps, top_p)
            got = kernels.draw(logits.to(device), states, owners.to(device), *drawing)
            assert torch.equal(got.cpu(), expected)


def check_bad_logits(device):
    """-1 where they are not finite."""
    from steerproof.engine.cache import gpu_kernels as kernels

    logits = torch.zeros(4, 300)
    logits[1, 3], logits[2, 5], logits[3, 7] = float("nan"), float("inf"), -float("inf")
    places = torch.arange(4, device=device)
    drawn = kernels.draw(logits.to(device), places, places, 1.0, 0.9, 0.0).tolist()
    assert [token < 0 for token in drawn] == [False, True, True, False]


def test_interpreted_kernels_compute_what_is_defined(monkeypatch):
    interpreted(HERE, monkeypatch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_compute_what_is_defined(dtype):
    device = torch.device("cuda")
    check_attention(device, dtype, CASES)
    check_draw(device)
    check_bad_logits(device)
