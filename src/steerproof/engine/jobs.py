"""What training is asked for and what it gives back."""

from dataclasses import dataclass

from steerproof.engine.batches import Example
from steerproof.engine.lora.weights import LoraSpec, LoraWeights
from steerproof.errors import SteerproofError
from steerproof.model.steering import Push, SlotAudit


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterJob:
    """One adapter to train."""

    key: str
    examples: tuple[Example, ...]
    seed: int
    """Decides its first weights, the order of its examples and its dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How every adapter is trained."""

    lora: LoraSpec
    """The adapters' shape."""
    dropout: float
    learning_rate: float
    """Peak; warm-up is linear from 0, then half a cosine down to 0."""
    warmup: float
    """Share of the steps."""
    epochs: int
    rows_per_step: int
    weight_decay: float
    max_grad_norm: float
    """Largest L2 norm of one adapter's gradient."""
    max_length: int
    """Longest row in tokens; a longer one is an error, never cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How the work is packed. It changes speed and memory, and results only by rounding."""

    tokens: int | None = None
    """Tokens in a micro-batch, padding included; None to choose."""
    adapters: int | None = None
    """Adapters in training at once; None to choose."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass instead of keeping their activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPush:
    """What one direction did while an adapter was trained."""

    push: Push
    measured: SlotAudit

    @property
    def asked_norm(self) -> float:
        """Norm of the push as it was asked for."""
        return float(self.push.vector.double().norm())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAdapter:
    """An adapter that is done."""

    key: str
    weights: LoraWeights
    losses: tuple[float, ...]
    """Mean loss over completion tokens, per step."""
    gradient_norms: tuple[float, ...]
    """L2 norm before clipping, per step."""
    pushes: tuple[TrainedPush, ...]
    firings: int
    """Forward passes in which one of its rows was pushed."""
    tokens: int
    """Real tokens seen."""
    seconds: float
    """Wall time, each step's divided among its adapters by tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAdapter:
    """An adapter that could not be trained; the others go on."""

    key: str
    error: SteerproofError
