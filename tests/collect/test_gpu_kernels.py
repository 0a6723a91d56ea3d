"""The GPU's kernels against what defines them: interpreted on a CPU, compiled on a GPU."""

import pytest
import torch

from tests.interpreted import interpreted

pytest.importorskip("triton", reason="Triton comes with torch for GPUs")

HERE = """
import torch, warnings
from tests.collect.test_gpu_kernels import check_attention, check_draw, check_bad_logits
device = torch.device("cpu")
check_attention(device, torch.float32)
check_draw(device)
check_bad_logits(device)
"""


def check_attention(device, dtype):
    """Against the plain definition, for groups and widths that are no powers of two."""
    from steerproof.collect import gpu_kernels as kernels
    from steerproof.collect.pages import PAGE, attention_over_pages

    generator = torch.Generator().manual_seed(0)
    for heads, kv_heads, width in ((14, 2, 64), (4, 4, 80), (28, 4, 128)):
        shape = (60, kv_heads, PAGE, width)
        keys, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        table = torch.randperm(60, generator=generator)[:45].view(5, 9).int()
        lengths = torch.tensor([1, 16, 17, 100, 144])
        query = torch.randn(5, heads, width, generator=generator).to(dtype)
        moved = [x.to(device) for x in (query, keys, values, table, lengths)]
        got = kernels.attention(*moved, 0.1).cpu().double()
        exact = [x.double() for x in (query, keys, values)]
        expected = attention_over_pages(*exact, table, lengths, 0.1)
        assert (got - expected).norm() < (
            1e-5 if dtype == torch.float32 else 1e-2
        ) * expected.norm()


def check_draw(device):
    """Token for token what the definition draws."""
    from steerproof.collect import gpu_kernels as kernels
    from steerproof.collect.sampling import _floor, _states, drawn_by_definition

    generator = torch.Generator().manual_seed(0)
    for vocab, rows, spread in ((1000, 64, 2.0), (5000, 20, 3.0)):
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
    from steerproof.collect import gpu_kernels as kernels

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
    check_attention(device, dtype)
    check_draw(device)
    check_bad_logits(device)
