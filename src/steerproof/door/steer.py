"""A push on a plain Hugging Face model, for as long as a block of code runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steerproof.errors import SteeringError
from steerproof.model.base import Base, find_blocks
from steerproof.model.push import Push
from steerproof.model.steering import SlotAudit, Steering


class SteerAudit:
    """What a push has done so far; it can be asked inside of the block and after it."""

    def __init__(self, steering: Steering) -> None:
        """Read from a steering as it counts."""
        self._steering = steering

    @property
    def fired(self) -> int:
        """Forward passes in which it was added, at every layer of the push."""
        return min(self._steering.audit().firings.values())

    @property
    def parts(self) -> tuple[SlotAudit, ...]:
        """What was measured at each layer."""
        return self._steering.audit().parts[0]

    @property
    def norm(self) -> float | None:
        """Mean norm of what arrived, at the first layer; None before anything did."""
        return self.parts[0].push_norm

    @property
    def ratio(self) -> float | None:
        """That over the norm of each token's own residual."""
        return self.parts[0].ratio

    def __repr__(self) -> str:
        """Firings, norm and ratio."""
        size = "" if self.norm is None else f", norm {self.norm:.4g}, ratio {self.ratio:.3g}"
        return f"SteerAudit(fired {self.fired} times{size})"


@contextmanager
def steer(model: Base | nn.Module, push: Push) -> Iterator[SteerAudit]:
    """Add a push to every row of a model at all real tokens, whatever runs inside.

    Example:
        with steer(base.model, push) as audit:
            base.model.generate(**tokens)
        audit.fired, audit.ratio

    Args:
        model: A Hugging Face causal language model, or the base that holds one.
        push: What is added.

    Yields:
        What the push has done so far.

    Raises:
        SteeringError: It cannot be added; or, on leaving without another error, it never was.
        ModelError: The model's blocks cannot be found.
    """
    if push.tokens != "all":
        raise SteeringError(
            f"this push acts at {push.tokens} tokens, which only prompts and completions of "
            "steerproof's own tell apart: use complete() or score()"
        )
    inner = model.model if isinstance(model, Base) else model
    path, blocks = find_blocks(inner)
    weight = next(inner.parameters())
    steering = Steering(blocks, [push], device=weight.device, dtype=weight.dtype)
    decoder = inner.get_submodule(path.rpartition(".")[0])
    with ExitStack() as stack:
        route = decoder.register_forward_pre_hook(_router(steering), with_kwargs=True)
        stack.callback(route.remove)
        stack.enter_context(steering.attach())
        audit = SteerAudit(steering)
        yield audit
    if not audit.fired:
        raise SteeringError(
            "the push never fired: the model was not run inside of the block, or another one was"
        )


def _router(steering: Steering) -> Any:
    """A hook that routes every row of a coming forward pass to the push."""

    def route(_decoder: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        given = (inputs.get("input_ids"), inputs.get("inputs_embeds"), *args[:1])
        tokens = next(one for one in given if isinstance(one, Tensor))
        rows, width = tokens.shape[:2]
        mask = inputs.get("attention_mask")
        # The mask also covers what is cached; one of another shape is the model's own, of no pads.
        real = None
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= width:
            real = mask[:, -width:].bool().cpu()
        steering.route(torch.ones(rows, dtype=torch.int64), real)

    return route
