"""Training's Triton kernels against their definitions: interpreted on a CPU, compiled on a GPU."""

from unittest.mock import patch

import pytest
import torch

from tests.interpreted import interpreted

pytest.importorskip("triton", reason="Triton comes with torch for GPUs")

HERE = """
import torch
from tests.engine.test_training_kernels import CHECKS
for check in CHECKS:
    check(torch.device("cpu"), torch.float32)
"""


def check_dropout(device, dtype):
    """Masks are the definition's to the bit; what is added is rounded once."""
    from steerproof.engine.lora.dropout import Dropout, keep_mask, layer_number
    from steerproof.engine.lora.dropout_kernels import add_kept, kept

    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (3,), generator=generator)
    for seq, width in ((5, 12), (7, 30), (33, 65)):
        dropout = Dropout(rate=0.3, row_keys=keys)
        keep = keep_mask(dropout, 4, seq, width)
        assert 0 < int(keep.sum()) < keep.numel()
        x = torch.randn(3, seq, width, generator=generator).to(dtype)
        places = keys.to(device), layer_number(4)
        assert torch.equal(kept(x.to(device), *places, dropout.dropped).cpu(), x * keep)
        total = torch.randn(3, seq, width, generator=generator).to(dtype)
        wanted = (total.double() + 0.7 * (x * keep).double()).to(dtype)
        result = total.to(device).clone()
        add_kept(result, x.to(device), *places, dropout.dropped, 0.7)
        assert torch.equal(result.cpu()[~keep], total[~keep])
        precise = 1e-6 if dtype == torch.float32 else 1e-2
        assert torch.allclose(result.cpu(), wanted, rtol=precise, atol=precise)


def check_loss(device, dtype):
    """Losses and gradients against float64; a token without weight has no gradient."""
    from steerproof.engine.loss_kernels import gradient, losses

    generator = torch.Generator().manual_seed(1)
    for tokens, vocab in ((3, 50), (5, 9000)):
        logits = (4 * torch.randn(tokens, vocab, generator=generator)).to(dtype)
        targets = torch.randint(vocab, (tokens,), generator=generator)
        weights = torch.rand(tokens, generator=generator)
        weights[0] = 0.0
        exact = logits.double().requires_grad_()
        wanted = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
        (wanted * weights).sum().backward()
        on = (logits.to(device), targets.to(device))
        values, norms = losses(*on)
        assert (values.cpu().double() - wanted).abs().max() < 1e-4
        result = gradient(*on, norms, weights.to(device)).cpu().double()
        assert exact.grad is not None
        precise = 1e-5 if dtype == torch.float32 else 1e-2
        assert (result - exact.grad).norm() < precise * exact.grad.norm()
        assert not result[0].any()


def check_blocks(device, dtype):
    """Rotations and gates, and their gradients, against autograd in float64."""
    from steerproof.engine.block_kernels import gated, gated_gradients, rotated

    generator = torch.Generator().manual_seed(2)
    precise = 1e-5 if dtype == torch.float32 else 1e-2

    def drawn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    def near(got, wanted):
        return (got.cpu().double() - wanted).norm() < precise * wanted.norm()

    for heads, width, rows in ((3, 12, 2), (1, 8, 1)):
        # A projection's layout, seen head by head.
        x, grad = drawn(2, 5, heads, width).transpose(1, 2), drawn(2, heads, 5, width)
        cos, sin = drawn(rows, 5, width), drawn(rows, 5, width)
        exact = x.double().requires_grad_()
        turned = torch.cat([-exact[..., width // 2 :], exact[..., : width // 2]], -1)
        wanted = exact * cos.double()[:, None] + turned * sin.double()[:, None]
        wanted.backward(grad.double())
        angles = (cos.to(device), sin.to(device))
        assert near(rotated(x.to(device), *angles, back=False), wanted.detach())
        assert near(rotated(grad.to(device), *angles, back=True), exact.grad)
    gate, up, grad = drawn(3, 700), drawn(3, 700), drawn(3, 700)
    pair = [gate.double().requires_grad_(), up.double().requires_grad_()]
    wanted = torch.nn.functional.silu(pair[0]) * pair[1]
    wanted.backward(grad.double())
    assert near(gated(gate.to(device), up.to(device)), wanted.detach())
    results = gated_gradients(grad.to(device), gate.to(device), up.to(device))
    assert all(near(got, one.grad) for got, one in zip(results, pair, strict=True))


def check_tiles(device, dtype):
    """Layers with a common input, adapters in tiles: outputs and gradients against float64."""
    from steerproof.engine.lora import tile_kernels
    from steerproof.engine.lora import tiles as module
    from steerproof.engine.lora.dropout import Dropout
    from tests.engine.definition import TilesByDefinition

    generator = torch.Generator().manual_seed(3)
    precise = 1e-5 if dtype == torch.float32 else 2e-2

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    def near(got, wanted):
        error = (got.cpu().double() - wanted.double()).norm()
        return error <= precise * max(1e-3, float(wanted.double().norm()))

    slots = torch.tensor([1, 1, 3, 0, 2, 2], dtype=torch.int32)
    tokens, rank, inputs, outputs = len(slots) * module.TILE, 5, 70, (24, 136)
    keys = torch.randint(-(2**63), 2**63 - 1, (1, tokens), generator=generator)
    places = torch.arange(tokens)[None] % 97
    x = drawn(tokens, inputs).to(dtype)
    dys = [drawn(tokens, size).to(dtype) for size in outputs]
    a = [drawn(3, rank, inputs).to(dtype) for _ in outputs]
    b = [drawn(3, rank, size).to(dtype) for size in outputs]
    weights = [drawn(size, inputs).to(dtype) for size in outputs]
    bias = drawn(outputs[1]).to(dtype)

    def done(kind, where, to, rate, wanted):
        def moved(tensors):
            return tuple(one.to(where, to) for one in tensors)

        layers = module._Layers(
            numbers=tuple(map(module.layer_number, (3, 4))), weights=moved(weights),
            biases=(None, *moved([bias])),
            a=moved(a), b=moved(b),
            grad_a=tuple(torch.zeros_like(one, dtype=torch.promote_types(to, torch.float32),
                                          device=where) for one in a),
            grad_b=tuple(torch.zeros_like(one, dtype=torch.promote_types(to, torch.float32),
                                          device=where) for one in b),
        )  # fmt: skip
        dropout = Dropout(rate=rate, row_keys=keys.to(where), places=places.to(where))
        part = kind(
            module._Pass(
                layers=layers, tiles=slots.to(where), dropout=dropout if rate else None, scaling=0.7
            )
        )
        own_x = x.to(where, to)
        narrow = part.narrowed(own_x)
        ys = part.outputs(own_x, narrow)
        back = part.outputs_back(narrow, moved(dys))
        dx = own_x.clone() if wanted else None
        part.inputs_back(dx, own_x, back)
        grads = [*layers.grad_a, *layers.grad_b]
        return [*ys, narrow[:, :, :rank], back[:, :, :rank], *grads, *([dx] if wanted else [])]

    # Wide layers' frozen products are added to the adapters', others the other way round.
    for rate, wanted, wide in ((0.3, True, 1), (0.0, True, 60), (0.3, False, 10_000)):
        exact = done(TilesByDefinition, torch.device("cpu"), torch.float64, rate, wanted)
        with patch.object(tile_kernels, "WIDE", wide):
            ours = done(module._Kernels, device, dtype, rate, wanted)
        for place, (mine, theirs) in enumerate(zip(ours, exact, strict=True)):
            assert near(mine, theirs), (rate, wanted, place)


def check_norms(device, dtype):
    """Norms and their gradients against autograd in float64; rows may lie apart."""
    from steerproof.engine.norm_gpu_kernels import gradient, normed

    generator = torch.Generator().manual_seed(4)
    precise = 1e-5 if dtype == torch.float32 else 1e-2
    for width in (24, 576):
        x = (3 * torch.randn(7, 2 * width, generator=generator)).to(dtype)[:, :width]
        dy = torch.randn(7, width, generator=generator).to(dtype)
        gain = torch.rand(width, generator=generator).to(dtype)
        exact = x.double().requires_grad_()
        wanted = torch.nn.functional.rms_norm(exact, (width,), gain.double(), 1e-2)
        wanted.backward(dy.double())
        y, inverse = normed(x.to(device), gain.to(device), 1e-2)
        assert (y.cpu().double() - wanted).norm() < precise * wanted.norm()
        back = gradient(dy.to(device), x.to(device), gain.to(device), inverse)
        assert exact.grad is not None
        assert (back.cpu().double() - exact.grad).norm() < precise * exact.grad.norm()


def check_attention(device, dtype):
    """Attention from row to row, and its gradients, against the definition in float64."""
    from steerproof.engine.row_attention_kernels import attended, attention_gradients
    from tests.engine.definition import rows_by_definition

    generator = torch.Generator().manual_seed(5)
    precise = 1e-5 if dtype == torch.float32 else 2e-2
    ends = torch.tensor([0, 1, 71, 71, 200, 264, 270, 270], dtype=torch.int32)
    for heads, kv_heads, width in ((6, 2, 16), (2, 2, 32), (3, 1, 64)):
        # Values as a projection gives them that they share with something else.
        q, k, both = (
            torch.randn(270, count, width, generator=generator).to(dtype)
            for count in (heads, kv_heads, 2 * kv_heads)
        )
        v, grad = both[:, kv_heads:], torch.randn(270, heads, width, generator=generator).to(dtype)
        exact = [x.double().requires_grad_() for x in (q, k, v)]
        wanted = rows_by_definition(*exact, ends, 130, 0.3)
        wanted.backward(grad.double())
        on = [x.to(device) for x in (q, k, both)]
        on[2] = on[2][:, kv_heads:]
        out, norms = attended(*on, ends.to(device), 130, 0.3)
        found = attention_gradients(grad.to(device), *on, out, norms, ends.to(device), 130, 0.3)
        pairs = zip((out, *found), (wanted.detach(), *(x.grad for x in exact)), strict=True)
        for place, (got, right) in enumerate(pairs):
            error = (got.cpu().double() - right).norm()
            assert error < precise * right.norm(), (width, place)


CHECKS = (check_attention, check_blocks, check_dropout, check_loss, check_norms, check_tiles)


def test_interpreted_kernels_drop_and_score_by_the_definition(monkeypatch):
    interpreted(HERE, monkeypatch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_drop_and_score_by_the_definition(dtype):
    for check in CHECKS:
        check(torch.device("cuda"), dtype)
