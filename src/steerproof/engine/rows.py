"""The rows that are to be completed, and what they became."""

from dataclasses import dataclass
from typing import Any, Literal

from steerproof.engine.lora.weights import LoraWeights
from steerproof.errors import SteerproofError
from steerproof.model.steering import Push

Finish = Literal["eos", "length"]
"""Why a row has ended: by a token that ends an answer, or because it may not be longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to be drawn: cell, question, sample, and all that its text depends on."""

    cell: str
    question: int
    sample: int
    seed: int
    """`row_seed` of the three, and of the experiment."""
    prompt_ids: tuple[int, ...]
    adapter: LoraWeights | None = None
    """None for the bare base. Rows share an adapter when they have the same object."""
    push: Push | None = None
    """None for no push. Rows share a push when they have the same object."""

    @property
    def group(self) -> tuple[Any, ...]:
        """What the rows of a sequence group share: their prompt, and how it is computed."""
        return (self.cell, self.question, self.prompt_ids, self.adapter, self.push)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """Why a row cannot be completed; the others are."""

    row: Row
    error: SteerproofError


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a row became."""

    row: Row
    token_ids: tuple[int, ...]
    """Without the token that ended it."""
    finish: Finish
