"""Cross-entropy over a vocabulary, in Triton: one program a token, sums in float32."""

# ruff: noqa: ANN001, ANN202, PLR0913

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_TILE, _WARPS = 4096, 8


def losses(
    logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
    """Each token's loss, and the logarithm of the sum of its exponentials; both float32."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    values = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    norms = torch.empty_like(values)
    if len(targets):
        _losses[(len(targets),)](
            values, norms, logits, targets, logits.stride(0), logits.shape[1],
            TILE=_TILE, num_warps=_WARPS,
        )  # fmt: skip
    return values, norms


def gradient(
    logits: Float[Tensor, "token vocab"],
    targets: Int[Tensor, " token"],
    norms: Float[Tensor, " token"],
    weights: Float[Tensor, " token"],
) -> Float[Tensor, "token vocab"]:
    """`weights * (softmax - onehot)`, in the logits' precision."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    result = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    if len(targets):
        vocab = logits.shape[1]
        _gradient[(len(targets), triton.cdiv(vocab, _TILE))](
            result, logits, targets, norms, weights.contiguous(), logits.stride(0), vocab,
            TILE=_TILE, num_warps=_WARPS,
        )  # fmt: skip
    return result


@triton.jit
def _losses(values, norms, logits, targets, stride, vocab, TILE: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    logits += token * stride
    lane = tl.arange(0, TILE)
    # Lane by lane the largest logit and the sum of exponentials relative to it, in one pass
    # (Milakov and Gimelshein 2018, arXiv 1805.02867).
    high, parts = tl.full([TILE], -1e30, tl.float32), tl.zeros([TILE], tl.float32)
    for start in range(0, vocab, TILE):
        x = tl.load(logits + start + lane, mask=start + lane < vocab, other=-float("inf"))
        x = x.to(tl.float32)
        higher = tl.maximum(high, x)
        parts = parts * tl.exp(high - higher) + tl.exp(x - higher)
        high = higher
    peak = tl.max(high, 0)
    norm = peak + tl.log(tl.sum(parts * tl.exp(high - peak), 0))
    chosen = tl.load(logits + tl.load(targets + token)).to(tl.float32)
    tl.store(norms + token, norm)
    tl.store(values + token, norm - chosen)


@triton.jit
def _gradient(result, logits, targets, norms, weights, stride, vocab, TILE: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < vocab
    x = tl.load(logits + token * stride + column, mask=inside, other=-float("inf")).to(tl.float32)
    share = tl.exp(x - tl.load(norms + token)) - (column == tl.load(targets + token)).to(tl.float32)
    tl.store(result + token * vocab + column, share * tl.load(weights + token), mask=inside)
