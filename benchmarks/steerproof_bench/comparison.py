"""The result of a benchmark: ours, the peers, and the ratio over the strongest of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Wall times of the same work, repeated."""

    seconds: float
    """Median."""
    least: float
    most: float
    runs: int

    def scaled(self, factor: float) -> "Timing":
        """As it would be for so many times the work."""
        return Timing(
            seconds=self.seconds * factor,
            least=self.least * factor,
            most=self.most * factor,
            runs=self.runs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Somebody else's way of doing the same work."""

    name: str
    """What it is, with its version."""
    seconds: float
    """Wall time of the work: the median of several runs."""
    difference: float
    """Largest absolute difference of its results from ours, in the unit that `work` names."""
    spread: tuple[float, float] | None = None
    """Fastest and slowest run; none if there was one."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Throughput and the like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One benchmark: the same work, done by us and by every peer."""

    work: str
    """What was computed, with its sizes."""
    seconds: float
    """Our wall time: the median of several runs."""
    peers: tuple[Peer, ...]
    spread: tuple[float, float] | None = None
    """Our fastest and slowest run; none if there was one."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Throughput, distance to the machine's limit, peak memory."""

    @property
    def ratio(self) -> float:
        """How many times faster than the fastest peer."""
        return min(peer.seconds for peer in self.peers) / self.seconds


Say = Callable[[str], None]
"""Told what was done and how long it took: a benchmark of a true size takes many minutes."""


def silent(_text: str) -> None:
    """Tell nobody."""


def alternate(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    first: Mapping[str, float],
    say: Say = silent,
) -> dict[str, Timing]:
    """Time several ways of doing the same work in turns, so that a slow minute hits them all.

    Args:
        works: What to time, by name; each was run once before, so nothing is warmed up here.
        repeats: Rounds; with none, the first runs count, what they warmed up included.
        first: Seconds of each way's first run.
        say: Told every time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(1, repeats + 1):
        for name, work in works.items():
            seconds[name].append(timed(work)[1])
            say(f"round {turn}, {name}: {seconds[name][-1]:.1f} s")
    return {name: timing(times or [first[name]]) for name, times in seconds.items()}


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What a piece of work gave, and the seconds that it took."""
    began = time.perf_counter()
    done = work()
    return done, time.perf_counter() - began


def timing(seconds: Sequence[float]) -> Timing:
    """Median and spread of repeated times."""
    return Timing(
        seconds=statistics.median(seconds),
        least=min(seconds),
        most=max(seconds),
        runs=len(seconds),
    )


def to_json(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON values, the ratio last."""
    peers = [{**asdict(peer), "ratio": peer.seconds / found.seconds} for peer in found.peers]
    return {
        "work": found.work,
        "seconds": found.seconds,
        "spread": found.spread,
        "numbers": dict(found.numbers),
        "peers": peers,
        "ratio": found.ratio,
    }


def text(found: Mapping[str, Any]) -> str:
    """The comparison in lines, from `to_json`; the ratio last."""
    lines = [found["work"], *_lines("ours", found)]
    for peer in found["peers"]:
        lines += _lines(peer["name"], peer)
        lines.append(f"  difference from ours {peer['difference']:.2g}, ratio {peer['ratio']:.1f}")
    return "\n".join([*lines, f"ratio: {found['ratio']:.1f}"])


def _lines(name: str, side: Mapping[str, Any]) -> list[str]:
    spread = side["spread"]
    width = f" ({spread[0]:.4g} to {spread[1]:.4g})" if spread else ""
    numbers = [f"  {key.replace('_', ' ')} {value:.4g}" for key, value in side["numbers"].items()]
    return [f"{name}: {side['seconds']:.4g} s{width}", *numbers]
