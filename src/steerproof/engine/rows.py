"""The rows of a pool: what is asked for, what each became, and what they are meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.lora.pool import LoraWeights
from steerproof.model.push import Push, Where


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
    def family(self) -> tuple[Any, ...]:
        """What rows must share to share their prompt's keys and values."""
        return (self.cell, self.question, self.prompt_ids, self.adapter, self.push)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a row became."""

    row: Row
    token_ids: tuple[int, ...]
    """Without the token that ended it."""
    finish: Literal["eos", "length"]


@dataclass(slots=True, eq=False)
class Branch:
    """Rows of one family that have drawn the same tokens so far: one computation serves them all.

    Such rows have the same past, so they have the same logits; only their noise differs. They part
    when they draw unlike tokens.
    """

    rows: list[Row]
    """At least one."""
    tokens: list[int] = field(default_factory=list)
    """Drawn so far."""
    ended: bool = False

    @property
    def last(self) -> int:
        """The token to be fed next."""
        return self.tokens[-1] if self.tokens else self.rows[0].prompt_ids[-1]

    @property
    def position(self) -> int:
        """Position of the token to be fed next; so many keys have been written."""
        return len(self.rows[0].prompt_ids) - 1 + len(self.tokens)

    @property
    def where(self) -> Where:
        """Where the token to be fed next stands."""
        return "generated" if self.tokens else "last_prompt"

    @property
    def turns(self) -> bool:
        """Whether its push acts on the token to be fed next and not on those after it, or not."""
        push = self.rows[0].push
        if push is None or self.tokens:
            return False
        return push.acts("last_prompt") != push.acts("generated")


@dataclass(slots=True, kw_only=True)
class Batch:
    """The branches of the next step, ordered by adapter, and their rows, ordered by branch."""

    branches: list[Branch]
    tokens: Int[Tensor, " branches"]
    positions: Int[Tensor, " branches"]
    rows: list[Row]
    owners: Int[Tensor, " rows"]
    """Place of each row's branch."""
    firsts: Int[Tensor, " branches"]
    """Place of each branch's first row."""
    steps: Int[Tensor, " rows"]
    seeds: Int[Tensor, " rows"]
    turns: bool
    """After the next step some push begins or ends to act, so that rows are routed anew."""


Choose = Callable[[Float[Tensor, "branches vocab"], Batch], Int[Tensor, " rows"]]
"""A token for every row, from the logits of its branch."""
