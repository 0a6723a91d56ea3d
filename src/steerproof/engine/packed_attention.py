"""Attention from row to row where training rows lie in one line, and which models it serves."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.cache.attention import attending
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.split import Spread

_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")
"""Kinds of attention that are asked for by these names, and not computed here."""
_OWN_WIDTHS = (16, 32, 64)
"""Heads that our kernel takes: at 64 a third faster than the library's, beyond not measured."""
_WIDEST, _MULTIPLE = 256, 8
"""Heads that the library's takes."""
_ROUNDING = 0.05
"""Share of the logits' norm by which rows packed may differ from rows alone: far above bfloat16's
rounding, far below a row that saw another."""


class PackedAttention:
    """Causal attention within rows that lie one after another."""

    def __init__(self) -> None:
        """No row is known yet."""
        self._ends = Spread(torch.zeros(0, dtype=torch.int32), torch.device("cpu"))
        self._longest = 0

    def route(self, ends: Int[Tensor, " row1"], longest: int) -> None:
        """Say what the rows of the coming pass are.

        Args:
            ends: Where rows begin and the last ends, at the base's home.
            longest: No row has more tokens.
        """
        self._ends, self._longest = Spread(ends, ends.device), longest

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention in the form that Hugging Face's models call.

        Args:
            module: Who asks.
            query: `[1, heads, tokens, width]`.
            key: The same of perhaps fewer heads.
            value: The same.
            scaling: On the products; one over the root of the width if None.
            kwargs: What else the model wants.

        Returns:
            `[1, tokens, heads, width]`, and no weights.

        Raises:
            ModelError: It wants a kind of attention that is not computed here.
        """
        window = kwargs.get("sliding_window")
        if window is not None and window < self._longest:
            raise ModelError(f"{type(module).__name__} has a sliding window of {window} positions")
        for name in _UNKNOWN:
            if kwargs.get(name) is not None:
                raise ModelError(f"{type(module).__name__} uses {name}, which is not supported")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        ends, longest = self._ends.on(query.device), self._longest
        # Not `x[0]`: its gradient would be zeros for the whole of x, and a copy into them.
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        return _within_rows(q, k, v, ends, longest, scale)[None], None


def _within_rows(
    query: Float[Tensor, "tokens heads width"],
    key: Tensor,
    value: Tensor,
    ends: Int[Tensor, " row1"],
    longest: int,
    scale: float,
) -> Float[Tensor, "tokens heads width"]:
    """Causal attention: by a kernel of ours, or the library's where heads have another width."""
    if query.shape[2] in _OWN_WIDTHS:
        out: Any = _RowAttention.apply(query, key, value, ends, (longest, scale))
        return out
    return torch.ops.aten._flash_attention_forward(
        query, key, value, ends, ends, longest, longest, 0.0, True, False, scale=scale
    )[0]


class _RowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, ends: Tensor, how: tuple[int, float]
    ) -> Tensor:
        from steerproof.engine.row_attention_kernels import attended

        out, norms = attended(query, key, value, ends, *how)
        ctx.save_for_backward(query, key, value, out, norms, ends)
        ctx.how = how
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        from steerproof.engine.row_attention_kernels import attention_gradients

        query, key, value, out, norms, ends = ctx.saved_tensors
        given = (query, key, value, out, norms, ends, *ctx.how)
        return (*attention_gradients(grad_outputs[0], *given), None, None)


@contextmanager
def packed_attention(base: Base) -> Iterator[PackedAttention]:
    """While inside, the model attends from row to row of a line.

    Raises:
        ModelError: The model does not let its attention be chosen.
    """
    attention = PackedAttention()
    with attending(base.model, attention.attend):
        yield attention


def packs(base: Base) -> bool:
    """Whether training rows are packed: on a GPU, in half precision, where the model allows it."""
    half = base.dtype in (torch.bfloat16, torch.float16)
    return base.device.type == "cuda" and half and packable(base)


@torch.no_grad()
def packable(base: Base) -> bool:
    """Whether rows packed into a line give what they give alone, seen on two short ones.

    That is not so where a model mixes neighbouring tokens by something else than attention, has a
    window, or knows positions by something else than their numbers.
    """
    rows = [list(range(1, 6)), list(range(4, 1, -1))]
    lengths = [len(row) for row in rows]
    alone = [base.model(torch.tensor([row], device=base.device), use_cache=False) for row in rows]
    wanted = torch.cat([output.logits[0] for output in alone]).float()
    with suppress(ModelError, ValueError, TypeError, RuntimeError), packed_attention(base) as how:
        ends = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32)
        how.route(ends.to(base.device), base.chat.context)
        output: Any = base.model(
            input_ids=torch.tensor([rows[0] + rows[1]], device=base.device),
            position_ids=torch.tensor([[*range(lengths[0]), *range(lengths[1])]]).to(base.device),
            use_cache=False,
        )
        logits = output.logits[0].float()
        return bool((logits - wanted).norm() <= _ROUNDING * wanted.norm()) and _fits_kernel(base)
    return False


def _fits_kernel(base: Base) -> bool:
    config = base.model.config.get_text_config()
    heads: int = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return base.device.type != "cuda" or (width <= _WIDEST and width % _MULTIPLE == 0)
