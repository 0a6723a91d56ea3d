"""What a call of the driver says of itself: how far it is, and how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steerproof.errors import UnitsFailedError
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.story import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedUnit:
    """A unit that could not be done."""

    unit: UnitId
    error: str
    log: str | None
    """Path of the log below the run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the run is; the numbers of units add up to `total` with those that wait."""

    total: int
    """Units in the graph."""
    reused: int
    """Units that were finished before, and are whole."""
    done: int
    """Units finished by this call."""
    running: int
    """Units in hand."""
    failed: int
    """Units that failed."""
    blocked: int
    """Units that read a failed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a call ended."""

    progress: Progress
    """The last numbers."""
    failures: Sequence[FailedUnit]
    blocked: Sequence[UnitId]
    """The units that could not begin because of the failures."""
    stopped: bool
    """Whether it was asked to stop."""


Listener = Callable[[Event, Progress], None]


def raise_failures(summary: Summary, command: str) -> None:
    """Name the units that failed, their logs, and the command that tries them again.

    Raises:
        UnitsFailedError: Some units failed.
    """
    if not summary.failures:
        return
    lines = [f"{len(summary.failures)} of {summary.progress.total} units failed:"]
    causes: dict[str, list[FailedUnit]] = {}
    for failed in summary.failures:
        causes.setdefault(failed.error, []).append(failed)
    for error, units in list(causes.items())[:10]:
        named = ", ".join(str(failed.unit) for failed in units[:5])
        more = f" and {len(units) - 5} more" if len(units) > 5 else ""
        log = f" (log: {units[0].log})" if units[0].log else ""
        lines.append(f"  {named}{more}: {error}{log}")
    if len(causes) > 10:
        lines.append(f"  and {len(causes) - 10} more causes; see `steerproof status`")
    if summary.blocked:
        lines.append(f"{len(summary.blocked)} units that read them could not begin.")
    lines.append(f"The others are finished and kept. To try these again: {command}")
    raise UnitsFailedError("\n".join(lines))
