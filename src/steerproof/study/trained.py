"""How the training of one adapter went, as a value. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Imported = Mapping[str, int | float | bool | str | tuple[str, ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushAudit:
    """What arrived of one push over a whole training."""

    asked_ratio: float | None
    """`|c| ||v|| / h_bar`; None where `h_bar` is not known."""
    asked_norm: float
    """`||c v||`."""
    achieved_norm: float | None
    """Mean norm of what was added; None if it never fired."""
    residual_norm: float | None
    """Mean norm of the residual that it was added to."""
    token_ratio: float | None
    """Mean `||delta|| / ||h||`, each token's own residual."""
    layer: int
    positions: int
    """Token positions that it was measured at."""

    @property
    def achieved_ratio(self) -> float | None:
        """The push that arrived, on the ratio's own scale."""
        if self.achieved_norm is None or self.asked_ratio is None:
            return None
        return self.asked_ratio * self.achieved_norm / self.asked_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """The training of one adapter; empty for one that was trained elsewhere."""

    losses: tuple[float, ...]
    """Mean loss per step, in nats per completion token."""
    gradient_norms: tuple[float, ...] = ()
    """Norm of the gradient of each step, before clipping."""
    firings: int | None = None
    """How often the hook added a direction; None for an imported adapter."""
    tokens: int | None = None
    """Tokens of all rows of all steps; None for an imported adapter."""
    seconds: float | None = None
    """Wall time; None for an imported adapter."""
    pushes: tuple[PushAudit, ...] = ()
    imported: Imported | None = None
    """Rank, alpha, scaling and targets of an adapter that was trained elsewhere."""

    @property
    def fired(self) -> tuple[PushAudit, ...]:
        """The pushes that were measured at some position."""
        return tuple(push for push in self.pushes if push.positions)

    @property
    def achieved_ratio(self) -> float | None:
        """Mean of the pushes that arrived over `h_bar`; None without any."""
        return _over_tokens([(push.achieved_ratio, push.positions) for push in self.fired])

    @property
    def token_ratio(self) -> float | None:
        """Mean of the pushes over each token's own residual; None without any."""
        return _over_tokens([(push.token_ratio, push.positions) for push in self.fired])


def _over_tokens(values: Sequence[tuple[float | None, int]]) -> float | None:
    """Mean of the values that are defined, each weighted by its number of positions."""
    known = [(value, count) for value, count in values if value is not None]
    total = sum(count for _, count in known)
    return sum(value * count for value, count in known) / total if total else None
