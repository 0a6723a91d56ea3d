"""What a worker is at inside its units, for whoever looks on: steps, completions, the loss.

A small file beside the lease for each order in hand, replaced at most once a second and never
waited for: nothing is synced, and what cannot be written is not told. It is worth nothing once its
order has ended, so its name is that of a temporary file, which every sweep removes. What dead
drivers left has an older fencing token in its name and is not looked at.
"""

import json
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from steerproof.codec import plain, read_record
from steerproof.errors import IntegrityError
from steerproof.run.store.files import TEMPORARY, temporary_name

SECONDS = 1.0
"""Between two writes at least."""
_WINDOW = 10.0
"""Seconds over which a rate is taken."""
_LARGEST = 4096
"""Bytes that such a file may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """Where an order in hand stands."""

    kind: str
    """Of its units."""
    units: int
    """In the order."""
    ended: int = 0
    """Of these."""
    phase: str = ""
    """What is done now, in words; empty at its main work."""
    what: str = ""
    """What is counted: `steps`, `completions`."""
    done: int = 0
    total: int = 0
    """0 while it is not known."""
    per_second: float | None = None
    """Of what is counted; None while it is not known."""
    tokens_per_second: float | None = None
    loss: float | None = None
    """Mean over the adapters in training of their last step's."""

    @property
    def share(self) -> float:
        """How much of the order is done, from 0 to 1, as far as it is known."""
        return min(1.0, self.done / self.total) if self.total and not self.phase else 0.0

    @property
    def units_ahead(self) -> float:
        """Units' worth of work that is done in units that have not ended."""
        return max(0.0, self.units * self.share - self.ended)


class Teller:
    """Says where an order stands; costs a look at the clock where nothing is due."""

    def __init__(self, place: Path | None, kind: str = "", units: int = 0) -> None:
        """Nothing is said yet.

        Args:
            place: The file; None says nothing.
            kind: Of the order's units.
            units: In the order.
        """
        self._place, self._kind, self._units = place, kind, units
        self._ended = 0
        self._done = self._total = 0
        self._phase = ""
        self._due = 0.0
        self._seen: deque[tuple[float, int, int]] = deque()
        """Time, count and tokens of what was said in the window."""

    def phase(self, words: str) -> None:
        """Something else than the main work begins; empty words begin that."""
        self._phase = words
        self._done = self._total = 0
        self._seen.clear()
        self._write(0, 0, "", 0, None)

    @property
    def due(self) -> bool:
        """Whether it is time to say something."""
        return self._place is not None and time.monotonic() >= self._due

    def at(
        self, done: int, total: int, what: str, *, tokens: int = 0, loss: float | None = None
    ) -> None:
        """So much is done; written if it is `due`.

        Args:
            done: Of what is counted.
            total: In all.
            what: What is counted, in the plural.
            tokens: Tokens so far, where they are what tells the speed.
            loss: Of the last step.
        """
        self._done, self._total = done, total
        if self.due:
            self._write(done, total, what, tokens, loss)

    @property
    def in_hand(self) -> float | None:
        """Units' worth of work that is done in units that have not ended; None if not known."""
        if not self._total:
            return None
        return max(0.0, self._units * min(1.0, self._done / self._total) - self._ended)

    def unit_ended(self) -> None:
        """One of the order's units has ended."""
        self._ended += 1

    def end(self) -> None:
        """The order has ended: there is nothing to say any more."""
        if self._place is not None:
            forget(self._place)

    def _write(self, done: int, total: int, what: str, tokens: int, loss: float | None) -> None:
        if self._place is None:
            return
        now = time.monotonic()
        self._due = now + SECONDS
        if self._seen and self._seen[-1][1] > done:  # it began again with fewer
            self._seen.clear()
        self._seen.append((now, done, tokens))
        while now - self._seen[0][0] > _WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        since, before, drawn = self._seen[0]
        seconds = now - since
        doing = Doing(
            kind=self._kind,
            units=self._units,
            ended=self._ended,
            phase=self._phase,
            what=what,
            done=done,
            total=total,
            per_second=(done - before) / seconds if seconds and done > before else None,
            tokens_per_second=(tokens - drawn) / seconds if seconds and tokens > drawn else None,
            loss=loss,
        )
        _replace(self._place, doing)


SILENT = Teller(None)
"""Says nothing."""


def doing_place(run: Path, token: int, order: int) -> Path:
    """Where an order of the driver with this fencing token says what it is at."""
    return run / "lock" / f"{TEMPORARY}doing-{token:06d}-{order:06d}.json"


def doings(run: Path, token: int) -> list[Doing]:
    """What the orders of the driver with this fencing token say, oldest order first.

    A file that is no record, or is gone a moment later, says nothing.
    """
    doing = []
    for place in sorted((run / "lock").glob(f"{TEMPORARY}doing-{token:06d}-*.json")):
        with suppress(OSError, IntegrityError):
            if place.is_file():
                with place.open("rb") as file:
                    doing.append(read_record(Doing, file.read(_LARGEST), place.name))
    return doing


def forget(place: Path) -> None:
    """Remove what an order said, if it is there."""
    with suppress(OSError):
        place.unlink(missing_ok=True)


def _replace(place: Path, doing: Doing) -> None:
    """All old or all new bytes for a reader; a disk that is full or gone is no reason to fail."""
    draft = place.with_name(temporary_name())
    try:
        draft.write_text(json.dumps(plain(doing)), encoding="ascii")
        draft.replace(place)
    except (OSError, ValueError):  # a loss that is not finite is not JSON
        forget(draft)
