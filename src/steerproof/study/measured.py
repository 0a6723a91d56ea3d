"""A measured cell as a value: the push that really arrived, and every completion. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from steerproof.spec.grid import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One completion of a cell."""

    question: int
    """Index of the evaluation question."""
    sample: int
    """Which of the question's completions, from 0."""
    seed: int
    """Seed of its draws, from (experiment seed, cell, question, sample) alone."""
    text: str
    """As decoded; hostile until escaped."""
    token_ids: tuple[int, ...]
    """Without the token that ended it."""
    finish: str
    """`eos` or `length`."""
    early_chars: int
    """Length of the text that its first `scoring.early_tokens` tokens decode to."""

    @property
    def tokens(self) -> int:
        """Length in tokens."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What was asked of a cell and what arrived."""

    cell: Cell
    coefficient: float | None
    """The number that the direction was multiplied by; 0 unsteered, None for a sum of pushes."""
    ratio: float | None
    """`|c| ||v|| / h_bar`, without a sign; 0 unsteered, None for a removal or an unknown scale."""
    asked_norm: float | None
    """`||c v||` as asked; 0 unsteered, None for a removal."""
    achieved_norm: float | None
    """Mean norm of the push that arrived; None unsteered."""
    token_ratio: float | None
    """Mean `||delta|| / ||h||`, each token's own residual; None unsteered."""
    canary: Mapping[str, str | float | None]
    """What a fixed text showed of the cell (`engine.canary.Canary`)."""

    @property
    def signed_ratio(self) -> float | None:
        """`c ||v|| / h_bar`; None where there is no ratio."""
        if self.ratio is None or (self.coefficient or 0.0) >= 0:
            return self.ratio
        return -self.ratio

    @property
    def push_seen(self) -> str:
        """Whether a fixed text showed the push; `none` where none was asked for."""
        return str(self.canary.get("push") or "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCell(CellRecord):
    """One measurement: questions x samples completions of an adapter under a prompt and a push."""

    completions: tuple[Completion, ...]
    """In order of question and sample."""
