"""The graded outcome as a table: what the model weighed where each text's answer ends.

The margin is the log-odds of the marker's first token against the end of turn. Unlike a rate it
has no ceiling. The base model's own margins are cells of their own: they are never subtracted, for
two arms would then correlate through them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from steerproof.spec.grid import Cell

TextKind = Literal["common", "own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """One text of one cell; without a slot, being cut by length, it has no numbers."""

    cell: str
    """The cell's name."""
    question: int
    """Index of the evaluation question."""
    text: TextKind
    """`common`, an answer of the base model, the same in every cell; `own`, a sample."""
    number: int
    """Which of the answers, or of the samples."""
    z_marker: float | None = None
    """Logit of the marker's first token, in nats."""
    z_end: float | None = None
    """Logit of the token that ends a turn."""
    log_z: float | None = None
    """Logarithm of the sum of the exponentials of all logits."""
    log_prob_marker: float | None = None
    """Log-probability of the whole marker."""

    @property
    def margin(self) -> float | None:
        """`z_marker - z_end`, in nats; None without a slot."""
        if self.z_marker is None or self.z_end is None:
            return None
        return self.z_marker - self.z_end


def margins(
    rows: Iterable[SlotRow], cells: Iterable[Cell], questions: int, text: TextKind = "common"
) -> Mapping[Cell, Float[np.ndarray, " questions"]]:
    """Mean margin of each question, over its texts that have a slot.

    Args:
        rows: Of any cells.
        cells: Those that are wanted.
        questions: Number of evaluation questions.
        text: Which texts.

    Returns:
        By cell; NaN for a question none of whose texts has a slot. A cell without a row is absent.
    """
    named = {cell.name: cell for cell in cells}
    by_cell: dict[Cell, list[list[float]]] = {}
    for row in rows:
        cell = named.get(row.cell)
        if cell is None or row.text != text:
            continue
        by_question = by_cell.setdefault(cell, [[] for _ in range(questions)])
        if row.margin is not None:
            by_question[row.question].append(row.margin)
    return {
        cell: np.array([np.mean(values) if values else np.nan for values in by_question])
        for cell, by_question in by_cell.items()
    }
