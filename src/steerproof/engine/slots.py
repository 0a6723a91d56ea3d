"""What the model weighs where an answer ends: the marker's first token against the end of turn.

A rate saturates; the logits do not. At the slot where an answer ends they say by how much the
marker would have won or lost. Texts are given, so that nothing is drawn, and the same text can be
read under every adapter and push.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.rows import Row
from steerproof.engine.score import ForcedPass, log_probs, read_logits
from steerproof.errors import ModelError
from steerproof.model.base import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotText:
    """An answer, and the marker that might follow it."""

    row: Row
    """Prompt, adapter and push; its seed is not used."""
    answer: tuple[int, ...]
    """Token ids up to the slot."""
    marker: tuple[int, ...]
    """Token ids of the whole marker, at least one."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What was weighed at the end of one answer, in nats."""

    z_marker: float
    """Logit of the marker's first token."""
    z_end: float
    """Logit of the token that ends a turn."""
    log_z: float
    """Logarithm of the sum over all tokens of the exponentials of their logits."""
    log_prob_marker: float
    """Log-probability of the whole marker."""

    @property
    def margin(self) -> float:
        """Log-odds of the marker's first token against the end of turn."""
        return self.z_marker - self.z_end


def weigh(base: Base, texts: Sequence[SlotText]) -> Iterator[tuple[int, Slot]]:
    """Read the slots of many texts, with each text's place, in any order.

    Args:
        base: The frozen model; nothing is attached.
        texts: What is read; texts of one adapter and push share what they begin with.

    Raises:
        ModelError: A text does not fit the context, or an adapter does not fit the base.
        SteeringError: A push does not fit it.
    """
    if not all(text.marker for text in texts):
        raise ModelError("a marker needs at least one token")
    asked = [
        ForcedPass(
            row=text.row,
            fed=(*text.answer, *text.marker[:-1]),
            first=len(text.answer),
        )
        for text in texts
    ]
    markers = {text.marker: torch.tensor(text.marker, device=base.device) for text in texts}
    places: list[int] = []
    numbers: list[Tensor] = []
    for place, logits in read_logits(base, asked):
        places.append(place)
        numbers.append(_numbers(base, markers[texts[place].marker], logits))
    if not numbers:
        return
    # One copy from the device: each would wait for all that the device was given.
    for place, row in zip(places, torch.stack(numbers).tolist(), strict=True):
        yield place, Slot(*row)


def _numbers(
    base: Base, marker: Int[Tensor, " marker"], logits: Float[Tensor, "marker vocab"]
) -> Float[Tensor, "4"]:
    """The fields of a `Slot`, in their order, float64 and still on the device."""
    first, scores = logits[0], log_probs(logits, marker)
    z_marker = first.gather(0, marker[:1])[0]  # An index that is a tensor would be waited for.
    values = (z_marker, first[base.chat.end_of_turn], first.logsumexp(dim=0))
    return torch.stack([*(value.double() for value in values), scores.double().sum()])
