"""The rows of a pool, and what they refer to: adapters and pushes over one base."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.lora.pool import LoraPool
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.steering import Steering


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is asked: the base model with the adapters and the pushes that rows refer to."""

    base: Base
    adapters: LoraPool | None = None
    """Slots of `Row.adapter`; None when every row uses the bare base."""
    steering: Steering | None = None
    """Slots of `Row.push`; None when no row is pushed."""

    def route(
        self, rows: "Sequence[Row]", mask: Tensor | None, padding: Sequence[int] = ()
    ) -> None:
        """Say which adapter and which push each row of the coming forward passes uses.

        Args:
            rows: In order of their adapters.
            mask: `[rows, seq]`, where a position is a real token; None when every position is.
                On the CPU.
            padding: Adapters of further rows, which are not pushed.
        """
        if self.adapters is not None:
            self.adapters.route(torch.tensor([*(row.adapter for row in rows), *padding]))
        if self.steering is not None:
            pushes = torch.tensor([*(row.push for row in rows), *(0 for _ in padding)])
            self.steering.route(pushes, mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to be drawn: cell, question, sample, and all that its text depends on."""

    cell: str
    question: int
    sample: int
    seed: int
    """`row_seed` of the three, and of the experiment."""
    prompt_ids: tuple[int, ...]
    adapter: int = 0
    """Slot of the adapter; 0 is the bare base."""
    push: int = 0
    """Slot of the push; 0 is none."""

    @property
    def family(self) -> tuple[Any, ...]:
        """What rows must share to share their prompt's keys and values."""
        return (self.cell, self.question, self.prompt_ids, self.adapter, self.push)


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
    def adapter(self) -> int:
        """Slot of the adapter of all its rows."""
        return self.rows[0].adapter

    @property
    def last(self) -> int:
        """The token to be fed next."""
        return self.tokens[-1] if self.tokens else self.rows[0].prompt_ids[-1]

    @property
    def position(self) -> int:
        """Position of the token to be fed next; so many keys have been written."""
        return len(self.rows[0].prompt_ids) - 1 + len(self.tokens)


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


Choose = Callable[[Float[Tensor, "branches vocab"], Batch], Int[Tensor, " rows"]]
"""A token for every row, from the logits of its branch."""


def check_slots(subject: Subject, rows: Sequence[Row]) -> None:
    """Check that nothing is asked for that the subject does not have.

    Raises:
        ModelError: a row uses an adapter or a push and the subject has none, or an empty prompt.
    """
    for row in rows:
        if row.adapter and subject.adapters is None:
            raise ModelError(f"{row.cell} uses adapter slot {row.adapter}, but there is no pool")
        if row.push and subject.steering is None:
            raise ModelError(f"{row.cell} uses push slot {row.push}, but there is no steering")
        if not row.prompt_ids:
            raise ModelError(f"{row.cell}, question {row.question}: the prompt has no token")
