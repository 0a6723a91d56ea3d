"""Live progress on a terminal; plain lines elsewhere."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from steerproof.run.driver.pace import Left, Pace
from steerproof.run.driver.summary import Progress as Numbers
from steerproof.run.store.doing import Doing, doings
from steerproof.run.store.hold import lock_state
from steerproof.run.store.story import Event
from steerproof.text import clean, clean_line, duration

Listen = Callable[[Event, Numbers], None]
_PHASES = {
    "directions": "reading directions",
    "answers": "answering training questions",
    "dataset": "building datasets",
    "adapter": "training adapters",
    "cell": "measuring cells",
    "score": "marking completions",
    "slots": "weighing the marker where answers end",
    "graded": "gathering what was weighed",
    "analysis": "deciding",
}
_NAMED = {
    "units-planned": "starting",
    "stopping": "stopping after the unit in hand",
    "run-ended": "drawing the figures and writing the report",
}
"""Phases that are no unit's, by the event with which they begin."""
_PLURALS = {"adapter": "adapters", "cell": "cells"}
_LOUD = {"unit-failed", "unit-retried", "unit-set-aside", "stopping"}
_LOOK_SECONDS = 1.0
"""Between two looks at what the workers are at."""
_QUIET_SECONDS = 10.0
"""Longest silence of plain lines at first; later a tenth of the time so far, up to `_LONGEST`."""
_LONGEST = 300.0


@contextmanager
def following(stream: TextIO, title: str, run: Path) -> Iterator[Listen]:
    """A listener that shows how a run goes.

    Args:
        stream: Where to write; a bar if it is a terminal, lines if not.
        title: What is being run.
        run: Its directory, where workers say what they are at.
    """
    console = Console(file=stream, highlight=False)
    seen = _Seen(run)
    if console.is_terminal and not console.is_dumb_terminal:
        console.print(clean(title), style="bold", markup=False)
        with _Live(console, seen) as live:
            yield live.listen
    else:
        with _Lines(console, seen) as lines:
            yield lines.listen


class _Seen:
    """What is known of a run: by its events, and by what its workers say."""

    def __init__(self, run: Path) -> None:
        self.began = time.monotonic()
        self.lock = threading.Lock()
        self.numbers: Numbers | None = None
        self.phase = "looking into the model, its tokenizer and every prompt"
        self._run, self._pace = run, Pace()
        self._doing: Sequence[Doing] = ()
        self._looked = 0.0

    def note(self, event: Event, numbers: Numbers) -> None:
        """Something happened."""
        with self.lock:
            self.numbers = numbers
            self._pace.note(event, time.monotonic())
            if event.unit is not None:
                self.phase = _PHASES.get(event.unit.kind, event.unit.kind)
            elif event.what in _NAMED:
                self.phase = _NAMED[event.what]

    @property
    def doing(self) -> Sequence[Doing]:
        """What the workers are at, looked up once a second."""
        with self.lock:
            now = time.monotonic()
            if now - self._looked >= _LOOK_SECONDS:
                holder = lock_state(self._run, probe=False).holder
                ours = holder is not None and holder.pid == os.getpid()
                self._doing = doings(self._run, holder.token) if holder and ours else ()
                self._looked = now
            return self._doing

    def left(self) -> str:
        """What is left of the whole run; nothing where all has ended."""
        doing, numbers = self.doing, self.numbers
        if numbers is None:
            return ""
        ended = numbers.reused + numbers.done + numbers.failed + numbers.blocked
        units = numbers.total - ended
        if units < 1:
            return ""
        with self.lock:
            left = self._pace.left(time.monotonic(), doing)
        return f"{units} left" if left is None else f"{units} left, {left_words(left)}"


def left_words(left: Left) -> str:
    """`about 12 min 3 s`, or `more than 12 min 3 s (36 cells not timed yet)`."""
    if not left.untimed:
        return f"about {duration(left.seconds)}"
    kind, count = max(left.untimed.items(), key=lambda item: item[1])
    units = f"{count} {kind} units" if kind not in _PLURALS else f"{count} {_PLURALS[kind]}"
    return f"more than {duration(left.seconds)}" + (f" ({units} not timed yet)" * (count > 1))


def doing_lines(doing: Iterable[Doing]) -> list[str]:
    """What the workers are at, a line for each kind of work: `480 of 4,800 steps, 52 steps/s`."""
    by_work: dict[tuple[str, str], list[Doing]] = {}
    for one in doing:
        by_work.setdefault((one.kind, one.phase), []).append(one)
    return [clean_line(_line(kind, phase, some)) for (kind, phase), some in by_work.items()]


def _line(kind: str, phase: str, some: Sequence[Doing]) -> str:
    name = _PHASES.get(kind, kind)
    parts = [phase] if phase else []
    what = next((one.what for one in some if one.what), "")
    if any(one.total for one in some):
        done, total = (sum(getattr(one, name) for one in some) for name in ("done", "total"))
        parts.append(f"{done:,} of {total:,} {what}")
    tokens = [one.tokens_per_second for one in some if one.tokens_per_second]
    rates = [one.per_second for one in some if one.per_second]
    if tokens:
        parts.append(f"{_rate(sum(tokens))} tokens/s")
    elif rates:
        parts.append(f"{_rate(sum(rates))} {what}/s")
    losses = [one.loss for one in some if one.loss is not None]
    if losses:
        parts.append(f"loss {fmean(losses):.3f}")
    if len(some) > 1:
        parts.append(f"{len(some)} workers")
    return f"{name}: {', '.join(parts)}" if parts else name


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


class _Live(Bar):
    """A bar over all units, and under it what the workers are at."""

    def __init__(self, console: Console, seen: _Seen) -> None:
        self._seen = seen  # drawn once while it is made
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self.add_task("units", total=None)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, what is left, and what is done now; asked for at each refresh."""
        yield self.make_tasks_table(self.tasks)
        if left := self._seen.left():
            yield Text(f"  {left}")
        for line in doing_lines(self._seen.doing) or [self._seen.phase]:
            yield Text(f"  {line}")

    def listen(self, event: Event, numbers: Numbers) -> None:
        """Something happened."""
        self._seen.note(event, numbers)
        if event.what in _LOUD:
            self.console.print(_loud(event), style="red", markup=False)
        self.update(self._task, completed=numbers.reused + numbers.done, total=numbers.total)


class _Lines:
    """A line for each phase and tenth, and one now and then while neither comes."""

    def __init__(self, console: Console, seen: _Seen) -> None:
        self._console, self._seen = console, seen
        self._said: set[tuple[str, int]] = set()
        self._last = time.monotonic()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> "_Lines":
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def listen(self, event: Event, numbers: Numbers) -> None:
        """Something happened."""
        seen = self._seen
        seen.note(event, numbers)
        if event.what in _LOUD:
            self._console.print(_loud(event), markup=False, soft_wrap=True)
        if event.unit is None and event.what != "run-ended":
            return
        step = (seen.phase, 10 * (numbers.reused + numbers.done) // max(1, numbers.total))
        if step not in self._said:
            self._said.add(step)
            self._say([seen.phase])

    def _break_silence(self) -> None:
        """Say where it stands when nothing has happened for a while."""
        while not self._over.wait(_LOOK_SECONDS):
            now = time.monotonic()
            patience = min(max(_QUIET_SECONDS, (now - self._seen.began) / 10), _LONGEST)
            if now - self._last < patience:
                continue
            with suppress(OSError, ValueError):  # whoever listened is gone
                self._say(doing_lines(self._seen.doing) or [self._seen.phase])

    def _say(self, doing: Sequence[str]) -> None:
        self._last = time.monotonic()
        parts = ["; ".join(doing)]
        numbers = self._seen.numbers
        if numbers is not None:
            parts.insert(0, f"{numbers.reused + numbers.done}/{numbers.total} units")
        line = f"[{self._last - self._seen.began:6.1f} s] {', '.join(parts)}"
        left = self._seen.left()
        self._console.print(f"{line}; {left}" if left else line, markup=False, soft_wrap=True)


def _loud(event: Event) -> str:
    detail = ", ".join(f"{key}: {value}" for key, value in event.detail.items())
    return clean(f"{event.what} {event.unit or ''} {detail}")
