"""The negative log-probability of each target, without copies of the logits.

Over a vocabulary of 49,152 or 152,064 the logits are the largest tensor of a training step. In half
precision torch makes three float32 copies of them: the cast, the log-softmax and its gradient. Here
a GPU reads them once forward, keeping one number a row, and once backward, writing the gradient in
their own precision; sums are in float32 either way.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def nll(
    logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """`logsumexp(logits) - logits[target]`, in float32 (float64 from float64).

    Args:
        logits: As the model computed them.
        targets: The tokens that should follow.
    """
    if logits.is_cuda and logits.dtype in (torch.bfloat16, torch.float16):
        losses: Any = _Nll.apply(logits, targets)
        return losses
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(exact, targets, reduction="none")


class _Nll(torch.autograd.Function):
    """d nll / d logits = softmax(logits) - onehot(target)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        from steerproof.engine.loss_kernels import losses

        values, norms = losses(logits, targets)
        ctx.save_for_backward(logits, targets, norms)
        return values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        from steerproof.engine.loss_kernels import gradient

        logits, targets, norms = ctx.saved_tensors
        return gradient(logits, targets, norms, grad_outputs[0]), None
