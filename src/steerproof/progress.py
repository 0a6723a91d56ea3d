"""Live progress on a terminal; plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
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
    "analysis": "deciding",
}
_LOUD = {"unit-failed", "unit-retried", "unit-set-aside", "stopping"}


class _Pace:
    """Time left, from what this process has seen: an honest ETA needs a unit of each kind done.

    Units that were reused do not count. Before the first unit of the kind in hand is finished
    there is no estimate.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.done: dict[str, int] = {}
        self.since: dict[str, float] = {}
        self.todo: dict[str, int] = {}

    def start(self, kind: str) -> None:
        """A unit of this kind began."""
        self.since.setdefault(kind, time.monotonic())
        self.todo[kind] = self.todo.get(kind, 0) + 1

    def finish(self, kind: str) -> None:
        """A unit of this kind ended."""
        self.done[kind] = self.done.get(kind, 0) + 1

    def left(self, kind: str) -> float | None:
        """Seconds until the units of this kind that have begun are done, or None if unknown."""
        done = self.done.get(kind, 0)
        if not done or kind not in self.since:
            return None
        each = (time.monotonic() - self.since[kind]) / done
        return each * max(0, self.todo[kind] - done)


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
                left=_left(pace, event),
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
        left = _left(pace, event)
        line = f"[{seconds:6.1f} s] {finished}/{numbers.total} units, {phase}"
        console.print(f"{line}, {left}" if left else line, markup=False, soft_wrap=True)

    return listen


def _note(event: Event, pace: _Pace) -> str:
    """Count the event; returns the phase it belongs to, or nothing."""
    if event.unit is None:
        return ""
    kind = event.unit.kind
    if event.what == "unit-started":
        pace.start(kind)
    if event.what == "unit-done":
        pace.finish(kind)
    return _PHASES.get(kind, kind)


def _left(pace: _Pace, event: Event) -> str:
    seconds = None if event.unit is None else pace.left(event.unit.kind)
    if seconds is None:
        return ""
    return f"about {duration(seconds)} left in this phase"


def _loud(event: Event) -> str:
    detail = ", ".join(f"{key}: {value}" for key, value in event.detail.items())
    return clean(f"{event.what} {event.unit or ''} {detail}")
