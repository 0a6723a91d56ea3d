"""The adapters' Triton kernels against float64: interpreted on a CPU, compiled on a GPU."""

import pytest
import torch

from tests.interpreted import interpreted

pytest.importorskip("triton", reason="Triton comes with torch for GPUs")

HERE = """
import torch
from tests.engine.test_lora_kernels import check
check(torch.device("cpu"), torch.float32)
"""
# Of rows: bare ones, adapters of one row and of many, an adapter that is absent, several in a tile.
SLOTS = [0] * 3 + [1] + [2] * 40 + [4] * 5 + [5] * 20 + [6] * 3
FEW = [0, 0, 1, 2, 2, 5]
CASES = [
    (SLOTS, 1, 8, 300, [130]),
    (SLOTS, 5, 24, 140, [200, 30, 150]),
    (SLOTS, 1, 32, 700, [64, 64]),
    (FEW, 1, 32, 300, [130, 70]),
    (FEW, 2, 8, 140, [30, 150, 20]),
]


def check(device, dtype):
    """Layers with a common input against float64, in tiles and token by token."""
    from steerproof.engine.lora.kernels import add_adapters

    generator = torch.Generator().manual_seed(0)
    for of_rows, seq, rank, inputs, outputs in CASES:
        slots, shape = torch.tensor(of_rows), (len(of_rows), seq)
        x = torch.randn(*shape, inputs, generator=generator).to(dtype)
        every = sum(rank * (inputs + size) for size in outputs)
        flat = torch.randn(8, every, generator=generator) / rank**0.5
        flat[0] = float("nan")  # Never read: its rows are the base's.
        left = flat.to(device, dtype)
        stacks, ys, expected = [], [], []
        for size in outputs:
            a = left[:, : rank * inputs].unflatten(1, (rank, inputs))
            b = left[:, rank * inputs : rank * (inputs + size)].unflatten(1, (rank, size))
            left = left[:, rank * (inputs + size) :]
            y = torch.randn(*shape, size, generator=generator).to(dtype)
            product = torch.einsum("bsi,bri->bsr", x.double(), a.cpu().double()[slots])
            product = torch.einsum("bsr,bro->bso", product, b.cpu().double()[slots])
            changed = torch.where(slots[:, None, None] > 0, y.double() + 0.7 * product, y.double())
            stacks.append((a, b))
            ys.append(y)
            expected.append(changed)
        got = [y.to(device).clone() for y in ys]
        add_adapters(got, x.to(device), stacks, slots.to(device), 0.7)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        for before, after, wanted in zip(ys, got, expected, strict=True):
            assert torch.equal(after.cpu()[slots == 0], before[slots == 0])
            assert (after.cpu().double() - wanted).norm() < tolerance * wanted.norm()


def test_interpreted_kernels_add_the_adapters_products(monkeypatch):
    interpreted(HERE, monkeypatch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_add_the_adapters_products(dtype):
    check(torch.device("cuda"), dtype)
