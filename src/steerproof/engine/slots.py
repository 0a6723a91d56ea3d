"""What the model weighs where an answer ends: the marker's first token against the end of turn.

A rate saturates; the logits do not. At the slot where an answer ends they say by how much the
marker would have won or lost. Texts are given, so that nothing is drawn, and the same text can be
read under every adapter and push.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerproof.engine.rows import Row
from steerproof.engine.score import ForcedPass, read_logits
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.transfer import sent


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
    seen = [
        (places, _numbers(base, [texts[place].marker for place in places], logits))
        for places, logits in read_logits(base, asked)
    ]
    # Read when all was launched: a copy from the device waits for what the device was given.
    for places, numbers in seen:
        slots = _slots([texts[place].marker for place in places], numbers)
        yield from zip(places, slots, strict=True)


class _Numbers(NamedTuple):
    """What was read off the logits of a pass, float64 and still on the device."""

    weighed: Float[Tensor, "texts 3"]
    """`z_marker`, `z_end` and `log_z` of each text."""
    scores: Float[Tensor, " tokens"]
    """Log-probabilities of the tokens of all markers."""


def _numbers(
    base: Base, markers: Sequence[Sequence[int]], logits: Float[Tensor, "tokens vocab"]
) -> _Numbers:
    """Read the logits of the tokens of markers, one marker after the other."""
    lengths = np.array([len(marker) for marker in markers])
    told = sent(torch.tensor([*chain.from_iterable(markers)]), base.device)
    firsts = sent(torch.from_numpy(lengths.cumsum() - lengths), base.device)
    of_told, log_z = logits.gather(1, told[:, None])[:, 0], logits.logsumexp(1)
    values = torch.stack([of_told, logits[:, base.chat.end_of_turn], log_z], dim=1)
    return _Numbers(values.index_select(0, firsts).double(), (of_told - log_z).double())


def _slots(markers: Sequence[Sequence[int]], numbers: _Numbers) -> Iterator[Slot]:
    each = numbers.scores.cpu().split([len(marker) for marker in markers])
    for weighed, scores in zip(numbers.weighed.tolist(), each, strict=True):
        z_marker, z_end, log_z = weighed
        yield Slot(z_marker, z_end, log_z, float(scores.sum()))
