"""Whether a peer of generation computes what ours does: log-probabilities of a fixed text, rates.

In float32 a peer's log-probabilities must be ours. In half precision two programs that round in
other places differ by more than a fixed number could allow for, so there both are held to what the
peer gives in float32.
"""

import gc
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steerproof.engine.score import score
from steerproof.errors import ModelError
from steerproof_bench.cells import CellWork
from steerproof_bench.peft_generation import PeftCells

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference of a token's log-probability between ours and a peer, nats."""
HALF_SHARE = 0.25
"""In bfloat16: how far from float32 each may be, as a share of what adapter and push change. A peer
that merges there rounds the update away: it is not held to it."""
RATE_ERRORS = 5.0
"""Most standard errors between two firing rates of the same rows, drawn with other noise."""

Scores = Sequence[Tensor]
"""The fixed text's log-probabilities under each cell, nats."""


class Agreement:
    """Ours under some cells; in half precision, with what float32 gives."""

    def __init__(self, work: CellWork) -> None:
        """Compute both.

        Raises:
            ModelError: In half precision, ours is too far from float32.
        """
        firsts = [work.rows[name][0] for name in work.names]
        self.ours: Scores = score(work.base, firsts, [work.text] * len(firsts))
        self._limit = TOLERANCES.get(work.base.dtype)
        self._exact: Scores = ()
        if self._limit is None:
            self._exact, bare = _in_float32(work)
            pairs = zip(self._exact, bare, strict=True)
            self._effect = min(_distance([a], [b]) for a, b in pairs)
            self._check_half("ours", self.ours)

    def errors(self, scores: Scores) -> dict[str, float]:
        """In half precision, how far a peer's scores, or ours, are from float32.

        And the bare base's, in the cell where they are least far.
        """
        if not self._exact:
            return {}
        return {
            "float32_difference": _distance(self._exact, scores),
            "float32_difference_of_bare_base": self._effect,
        }

    def check(self, name: str, scores: Scores, *, merged: bool) -> float:
        """Compare a peer's scores.

        Returns:
            The largest difference from ours, nats.

        Raises:
            ModelError: It is too large.
        """
        difference = _distance(self.ours, scores)
        if self._limit is None and not merged:
            self._check_half(name, scores)
        elif self._limit is not None and not difference <= self._limit:
            raise ModelError(f"{name}: log-probabilities differ from ours by {difference:.3g} nats")
        return difference

    def _check_half(self, name: str, scores: Scores) -> None:
        far, limit = _distance(self._exact, scores), HALF_SHARE * self._effect
        if not far <= limit:
            raise ModelError(
                f"{name}: log-probabilities differ by {far:.3g} nats from those in float32; adapter"
                f" and push change them by {self._effect:.3g}, and {limit:.3g} is allowed"
            )


def check_rates(name: str, ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    """Compare firing rates, each given as (rows in which the marker fired, rows).

    Raises:
        ModelError: They are further apart than chance.
    """
    (a, rows_a), (b, rows_b) = ours, theirs
    both = (a + b) / (rows_a + rows_b)
    error = math.sqrt(both * (1 - both) * (1 / rows_a + 1 / rows_b))
    if abs(a / rows_a - b / rows_b) > RATE_ERRORS * error:
        raise ModelError(f"{name}: firing rate {b / rows_b:.3f}, ours {a / rows_a:.3f}")


def _in_float32(work: CellWork) -> tuple[Scores, Scores]:
    """What the peer that does not merge gives, and what the bare base does."""
    peers = PeftCells(work, torch.float32)
    scores = [peers.log_probs(name, merged=False) for name in work.names]
    bare = [peers.bare_log_probs(name) for name in work.names]
    del peers
    gc.collect()  # Its models refer to one another in circles, and are twice as large as the base.
    return scores, bare


def _distance(a: Scores, b: Scores) -> float:
    """Largest difference of a token's log-probability over all cells."""
    return max(float((one - other).abs().max()) for one, other in zip(a, b, strict=True))
