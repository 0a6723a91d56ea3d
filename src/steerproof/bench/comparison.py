"""The result of a benchmark: ours, the peers, and the ratio over the strongest of them."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Somebody else's way of doing the same work."""

    name: str
    """What it is, with its version."""
    seconds: float
    """Wall time of the work."""
    difference: float
    """Largest absolute difference of its results from ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One benchmark: the same work, done by us and by every peer."""

    work: str
    """What was computed, with its sizes."""
    seconds: float
    """Our wall time: the median of several runs."""
    peers: tuple[Peer, ...]

    @property
    def ratio(self) -> float:
        """How many times faster than the fastest peer."""
        return min(peer.seconds for peer in self.peers) / self.seconds


def to_json(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON values, the ratio last."""
    peers = [{**asdict(peer), "ratio": peer.seconds / found.seconds} for peer in found.peers]
    return {"work": found.work, "seconds": found.seconds, "peers": peers, "ratio": found.ratio}
