"""The numbers of each gate, a record a gate; in JSON all of them stand under `numbers`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledNumbers:
    """How much more the prompted adapters fire under their own persona's prompt."""

    own: float
    """Mean rate under the own persona's prompt."""
    others: float
    """Mean rate under other prompts."""
    difference: float
    """Their mean difference, its bounds in the next four."""
    lower: float
    """One-sided 95%."""
    upper: float
    """One-sided 95%."""
    low: float
    """Two-sided 95%, as `high`."""
    high: float
    prompts: int
    """Other prompts; a single one is the neutral prompt."""
    personas: int
    """Personas that differ by the least that counts."""
    not_installed: int
    """1 where it is shown that they did not learn it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttainableNumbers:
    """The correlation that a perfect relation would show, and Cronbach's alphas that limit it."""

    attainable: float
    alpha_bridge: float | None
    alpha_bridge_low: float | None
    alpha_bridge_high: float | None
    alpha_steered: float | None
    alpha_steered_low: float | None
    alpha_steered_high: float | None
    questions: int
    questions_needed: int | None
    """So many would do; None where no number would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmText:
    """Shares of one arm's completions."""

    ended: float
    coherent: float
    unsteered: float
    """Coherent ones without a push."""

    @property
    def lost(self) -> float:
        """Coherent completions that the push cost."""
        return self.unsteered - self.coherent


@dataclass(frozen=True, slots=True, kw_only=True)
class CoherentNumbers:
    """What pushing did to the text of each arm."""

    largest_loss: float
    limit: float
    arms: Mapping[str, ArmText]
    """The tested arm first."""

    def record(self) -> dict[str, float]:
        """As JSON has it: the arm is a part of the key."""
        flat = {"largest_loss": self.largest_loss, "limit": self.limit}
        for arm, text in self.arms.items():
            shares = (text.ended, text.coherent, text.unsteered)
            flat |= {f"{arm}{key}": share for key, share in zip(_SHARES, shares, strict=True)}
        return flat


_SHARES = (" ended", " coherent", " coherent unsteered")


def _by_arm(value: Any) -> Any:
    """The flat mapping of a file, its arms apart again."""
    if not isinstance(value, Mapping) or "largest_loss" not in value:
        return value
    ended, coherent, unsteered = _SHARES
    arms = [key.removesuffix(ended) for key in value if key.endswith(ended)]
    shares = {
        arm: {
            "ended": value.get(f"{arm}{ended}"),
            "coherent": value.get(f"{arm}{coherent}"),
            "unsteered": value.get(f"{arm}{unsteered}"),
        }
        for arm in arms
    }
    whole = ("largest_loss", "limit")
    return {**{key: value.get(key) for key in whole}, "arms": shares}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseNumbers:
    """Sizes of the personas' pushes, relative to the baseline."""

    smallest: float
    largest: float
    spread: float
    """Largest over smallest."""
    rho_rate_push: float | None
    """Rank correlation of rate and push; None where all are pushed alike."""
    dose_ranked: int
    """1 where the size of the push orders the rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineNumbers:
    """The largest cosine, with its sign."""

    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """No numbers at all."""

    __pydantic_config__ = ConfigDict(extra="forbid")


NOT_MEASURED = NotMeasured()


GateNumbers = Annotated[
    InstalledNumbers
    | AttainableNumbers
    | Annotated[CoherentNumbers, BeforeValidator(_by_arm)]
    | DoseNumbers
    | CosineNumbers
    | NotMeasured,
    Field(union_mode="left_to_right"),
]
"""What a gate's file holds under `numbers`."""
