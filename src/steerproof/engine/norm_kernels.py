"""Numba for a CPU: how this package compiles with it, and what the model's layers use.

Functions are compiled when they are first used, in each process; LLVM comes with Numba, so no
compiler is needed. They compute in one thread; other threads run meanwhile.
"""

# ruff: noqa: ANN001, ANN202

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_Function = Callable[..., Any]
# Sums may be reordered, so that they are vectorised; NaN and infinities mean what they mean.
_REORDERED = {"reassoc", "contract", "nsz"}


def exact(function: _Function, **options: Any) -> _Function:
    """Compile a function."""
    # Unwrapped, since a type checker's wrapper cannot be compiled.
    compiled = numba.njit(nogil=True, error_model="numpy", **options)
    return compiled(inspect.unwrap(function))


def fast(function: _Function) -> _Function:
    """Compile a function whose sums may be reordered."""
    return exact(function, fastmath=_REORDERED)


def rms_norm(
    x: Float[Tensor, "... width"], gain: Float[Tensor, " width"], eps: float
) -> Float[Tensor, "... width"]:
    """`gain x / sqrt(mean(x^2) + eps)`, in float32."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = (tensor.view(-1, len(gain)).numpy() for tensor in (y, x.contiguous()))
    _rms_norm(*rows, gain.numpy(), np.float32(eps))
    return y


@fast
def _rms_norm(y, x, gain, eps):
    rows, width = x.shape
    for row in range(rows):
        squares = np.float32(0)
        for d in range(width):
            squares += x[row, d] * x[row, d]
        inverse = np.float32(1) / np.sqrt(squares / np.float32(width) + eps)
        for d in range(width):
            y[row, d] = gain[d] * (x[row, d] * inverse)
