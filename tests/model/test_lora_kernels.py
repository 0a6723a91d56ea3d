"""The adapters' Triton kernels against float64: interpreted on a CPU, compiled on a GPU."""

import pytest
import torch

from tests.interpreted import interpreted

pytest.importorskip("triton", reason="Triton comes with torch for GPUs")

HERE = """
import torch
from tests.model.test_lora_kernels import check
check(torch.device("cpu"), torch.float32)
"""
# Of rows: bare ones, adapters of one row and of many, an adapter that is absent, several in a tile.
SLOTS = [0] * 3 + [1] + [2] * 40 + [4] * 5 + [5] * 20 + [6] * 3


def check(device, dtype):
    generator = torch.Generator().manual_seed(0)
    slots = torch.tensor(SLOTS)
    for seq, rank, inputs, outputs in ((1, 8, 300, 130), (5, 24, 140, 600), (1, 32, 2100, 64)):
        flat = torch.randn(8, rank * (inputs + outputs), generator=generator) / rank**0.5
        flat[0] = float("nan")  # Never read: its rows are the base's.
        moved = flat.to(device, dtype)
        a = moved[:, : rank * inputs].unflatten(1, (rank, inputs))
        b = moved[:, rank * inputs :].unflatten(1, (rank, outputs))
        x = torch.randn(len(SLOTS), seq, inputs, generator=generator).to(dtype)
        y = torch.randn(len(SLOTS), seq, outputs, generator=generator).to(dtype)
        product = torch.einsum("bsi,bri->bsr", x.double(), a.cpu().double()[slots])
        product = torch.einsum("bsr,bro->bso", product, b.cpu().double()[slots])
        expected = torch.where(slots[:, None, None] > 0, y.double() + 0.7 * product, y.double())
        from steerproof.model.lora_kernels import add_adapters

        got = add_adapters(y.to(device), x.to(device), a, b, slots.to(device), 0.7).cpu()
        assert torch.equal(got[:3], y[:3])
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        assert (got.double() - expected).norm() < tolerance * expected.norm()


def test_interpreted_kernels_add_the_adapters_products(monkeypatch):
    interpreted(HERE, monkeypatch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_add_the_adapters_products(dtype):
    check(torch.device("cuda"), dtype)
