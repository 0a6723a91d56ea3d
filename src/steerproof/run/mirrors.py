"""Copies of the timeline in TensorBoard, W&B or MLflow: best effort, never in the way.

Each mirror is a process of its own, fed from a bounded queue by a thread. One that is slow loses
messages, one that raises or hangs is given up; the run notices neither. The truth is the ledger.

A mirror is a function of the run directory and the messages, named ``package.module:function``.
"""

import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steerproof.errors import ExperimentError
from steerproof.run.driver.scheduler import Listener, Progress
from steerproof.run.store.files import log_file, make_directory
from steerproof.run.store.ledger import Event

MIRRORS = {
    "tensorboard": "steerproof.run.mirrors:tensorboard",
    "wandb": "steerproof.run.mirrors:wandb",
    "mlflow": "steerproof.run.mirrors:mlflow",
}
PATIENCE = 10.0
"""Seconds that the end of a run gives all its mirrors together to catch up."""
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What became of a mirror.

    Attributes:
        name: Which one.
        sent: Messages handed to it.
        lost: Messages that it was too slow for, or that came after it had failed.
        failed: How it ended, if it did not end well; its log has the rest.
    """

    name: str
    sent: int
    lost: int
    failed: str | None


class Mirrors:
    """All mirrors of a run. `tell` is a `scheduler.Listener` and never waits."""

    def __init__(self, run: Path, names: Sequence[str], room: int = 1000) -> None:
        """Start a process for each mirror.

        Args:
            run: The run directory; mirrors write below ``mirrors/`` and log to ``logs/``.
            names: Of `MIRRORS`, or dotted names of functions.
            room: Most messages that wait for a mirror.

        Raises:
            ExperimentError: There is no such mirror.
        """
        unknown = [name for name in names if name not in MIRRORS and ":" not in name]
        if unknown:
            raise ExperimentError(
                f"no mirror is called {', '.join(unknown)}: allowed are {', '.join(MIRRORS)}"
            )
        self._mirrors = [_Mirror(run, name, room) for name in names]

    def tell(self, event: Event, progress: Progress) -> None:
        """Hand an event to every mirror that has room for it."""
        line = json.dumps({**asdict(event), "progress": asdict(progress)})
        for mirror in self._mirrors:
            mirror.tell(line)

    def close(self, seconds: float | None = None) -> list[Mirrored]:
        """Give the mirrors some time to catch up, then end them.

        Args:
            seconds: For all of them together; None for `PATIENCE`.
        """
        deadline = time.monotonic() + (PATIENCE if seconds is None else seconds)
        return [mirror.close(deadline) for mirror in self._mirrors]


@contextmanager
def mirrored(
    run: Path, names: Sequence[str], complain: Callable[[str], None]
) -> Iterator[Listener]:
    """A listener that copies a run's timeline, as far as the mirrors keep up.

    Args:
        run: The run directory.
        names: As `Mirrors` takes them.
        complain: Told at the end of each mirror that failed or lost something.

    Raises:
        ExperimentError: There is no such mirror.
    """
    if not names:
        yield lambda _event, _progress: None
        return
    mirrors = Mirrors(run, names)
    try:
        yield mirrors.tell
    finally:
        for one in mirrors.close():
            if one.failed or one.lost:
                how = one.failed or "was too slow"
                complain(f"mirror {one.name}: {how}; {one.sent} events sent, {one.lost} lost")


class _Mirror:
    """One mirror: a queue, the thread that empties it, and the process that it feeds."""

    def __init__(self, run: Path, name: str, room: int) -> None:
        self._name = name
        self._sent = self._lost = 0
        self._queue: queue.Queue[str | None] = queue.Queue(room)
        path = os.pathsep.join(path for path in sys.path if path)
        with log_file(run / "logs" / f"mirror-{name.rpartition(':')[2]}.log") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "steerproof.run.mirrors", MIRRORS.get(name, name), str(run)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(os.environ) | {"PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is the driver's
            )
        self._thread = threading.Thread(target=self._feed, name=f"mirror {name}", daemon=True)
        self._thread.start()

    def tell(self, line: str) -> None:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def close(self, deadline: float) -> Mirrored:
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=max(0.0, deadline - time.monotonic()))
        failed: str | None = None
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
            failed = None if code == 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            failed = "did not end in time"
            self._process.kill()
            self._process.wait()
        self._thread.join()
        lost = self._lost + sum(line is not None for line in self._queue.queue)
        return Mirrored(name=self._name, sent=self._sent, lost=lost, failed=failed)

    def _feed(self) -> None:
        """Empty the queue into the process until the end of either."""
        pipe = self._process.stdin
        if pipe is None:
            return
        with contextlib.suppress(BrokenPipeError), pipe:
            while self._process.poll() is None:
                try:
                    line = self._queue.get(timeout=0.2)
                except queue.Empty:
                    continue
                if line is None:
                    return
                pipe.write(line.encode() + b"\n")
                pipe.flush()
                self._sent += 1


def scalars(message: Message) -> dict[str, float]:
    """The numbers of an event, by tag: progress, and whatever numbers its detail has.

    A finished unit's are tagged by its kind (``adapter/seconds``), any other's by what happened
    (``verdict/rho``).
    """
    numbers = {f"progress/{name}": float(value) for name, value in message["progress"].items()}
    unit = message["unit"]
    label = unit.partition("/")[0] if unit else message["what"]
    for name, value in message["detail"].items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[f"{label}/{name}"] = float(value)
    return numbers


def tensorboard(run: Path, messages: Iterator[Message]) -> None:
    """Event files below ``mirrors/tensorboard``, without torch."""
    from tensorboard.compat.proto.event_pb2 import Event as Record  # pyright: ignore
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    place = run / "mirrors" / "tensorboard"
    make_directory(place)
    writer = EventFileWriter(str(place))
    for step, message in enumerate(messages):
        values = [
            Summary.Value(tag=tag, simple_value=number) for tag, number in scalars(message).items()
        ]
        record = Record(wall_time=message["time"], step=step, summary=Summary(value=values))
        writer.add_event(record)
    writer.close()


def wandb(run: Path, messages: Iterator[Message]) -> None:
    """A run in the W&B project ``steerproof``; offline if there is no account."""
    import wandb as client  # pyright: ignore[reportMissingImports]

    place = run / "mirrors"
    make_directory(place)
    client.init(project="steerproof", name=run.name, dir=str(place))
    for step, message in enumerate(messages):
        client.log(scalars(message), step=step)
    client.finish()


def mlflow(run: Path, messages: Iterator[Message]) -> None:
    """A run in the MLflow experiment ``steerproof``."""
    import mlflow as client  # pyright: ignore[reportMissingImports]

    client.set_experiment("steerproof")
    with client.start_run(run_name=run.name):
        for step, message in enumerate(messages):
            client.log_metrics(scalars(message), step=step)


def main(name: str, run: Path) -> None:
    """The mirror's process: call the function with the messages on standard input."""
    module, _, function = name.partition(":")
    vars(importlib.import_module(module))[function](run, map(json.loads, sys.stdin))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
