"""Live progress on a terminal; plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from steerproof.run.driver.summary import Progress as Numbers
from steerproof.run.store.story import Event
from steerproof.text import clean, duration

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
_LOUD = {"unit-failed", "unit-retried", "unit-set-aside", "stopping"}


class _Pace:
    """Time left of the whole run, from what this process has seen.

    A kind of unit counts once one of its units was done here; until then, what is known of the
    others is the least that it can take. Units that were reused do not count.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._since: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._todo: dict[str, int] = {}

    def plan(self, todo: Mapping[str, int]) -> None:
        """What is to be done, units by kind."""
        self._todo = dict(todo)

    def start(self, kind: str) -> None:
        """A unit of this kind began."""
        self._since.setdefault(kind, time.monotonic())

    def end(self, kind: str, *, done: bool) -> None:
        """A unit of this kind ended: was done, or will not be."""
        if done:
            self._done[kind] = self._done.get(kind, 0) + 1
        else:
            self._todo[kind] = self._todo.get(kind, 0) - 1

    def left(self) -> tuple[float, bool] | None:
        """Seconds until all is done, and whether every kind was counted; None if none could be.

        While something is left it is never nothing: at least one unit's time is.
        """
        seconds, whole, known = 0.0, True, False
        for kind, todo in self._todo.items():
            done = self._done.get(kind, 0)
            if todo <= done:
                continue
            if not done:
                whole = False
                continue
            known = True
            seconds += (time.monotonic() - self._since[kind]) / done * (todo - done)
        return (max(seconds, 1.0), whole) if known else None


@contextmanager
def following(stream: TextIO, title: str) -> Iterator[Listen]:
    """A listener that shows how a run goes.

    Args:
        stream: Where to write; a bar if it is a terminal, a line per phase and tenth if not.
        title: What is being run.
    """
    pace = _Pace()
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        yield _plain(console, pace)
        return
    console.print(clean(title), style="bold", markup=False)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=None, left="")

        def listen(event: Event, numbers: Numbers) -> None:
            phase = _note(event, pace)
            if event.what in _LOUD:
                bar.console.print(_loud(event), style="red", markup=False)
            bar.update(
                task,
                completed=numbers.reused + numbers.done,
                total=numbers.total,
                description=phase or None,
                left=_left(pace, numbers),
            )

        yield listen


def _plain(console: Console, pace: _Pace) -> Listen:
    said: set[tuple[str, int]] = set()

    def listen(event: Event, numbers: Numbers) -> None:
        phase = _note(event, pace)
        if event.what in _LOUD:
            console.print(_loud(event), markup=False, soft_wrap=True)
        finished = numbers.reused + numbers.done
        step = (phase, 10 * finished // max(1, numbers.total))
        if not phase or step in said:
            return
        said.add(step)
        seconds = time.monotonic() - pace.began
        line = f"[{seconds:6.1f} s] {finished}/{numbers.total} units, {phase}"
        left = _left(pace, numbers)
        console.print(f"{line}; {left}" if left else line, markup=False, soft_wrap=True)

    return listen


def _note(event: Event, pace: _Pace) -> str:
    """Count the event; returns the phase it belongs to, or nothing."""
    if event.what == "units-planned":
        pace.plan(event.detail.get("kinds", {}))
    if event.unit is None:
        return ""
    kind = event.unit.kind
    if event.what == "unit-started":
        pace.start(kind)
    if event.what in ("unit-done", "unit-reused", "unit-blocked", "unit-failed"):
        pace.end(kind, done=event.what == "unit-done")
    return _PHASES.get(kind, kind)


def _left(pace: _Pace, numbers: Numbers) -> str:
    """What is left of the whole run; nothing where all has ended."""
    units = numbers.total - numbers.reused - numbers.done - numbers.failed - numbers.blocked
    if units < 1:
        return ""
    time_left = pace.left()
    if time_left is None:
        return f"{units} left"
    seconds, whole = time_left
    return f"{units} left, {'about' if whole else 'more than'} {duration(seconds)}"


def _loud(event: Event) -> str:
    detail = ", ".join(f"{key}: {value}" for key, value in event.detail.items())
    return clean(f"{event.what} {event.unit or ''} {detail}")
