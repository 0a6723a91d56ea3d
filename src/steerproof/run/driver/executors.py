"""Where orders are carried out: in this process, in worker processes, or on a Ray cluster.

An executor is a stateless pair of hands. It says what a worker reported and whether a worker was
lost; what counts as finished is decided by the driver, from the manifests.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, no_type_check, runtime_checkable

from steerproof import programs
from steerproof.errors import MachineError
from steerproof.run.driver.local_worker import LOG, STOP
from steerproof.run.driver.worker import (
    Failure,
    Order,
    WorkReport,
    order_from_json,
    perform,
    report_from_json,
)
from steerproof.run.store.files import log_file


@runtime_checkable
class Executor(Protocol):
    """Where orders are carried out."""

    def begin(self, modules: Iterable[str]) -> None:
        """Orders will come that need these modules: whoever can makes ready for them.

        Nothing may be written to the run directory yet, which is not held.
        """
        ...

    def free(self) -> int:
        """How many more orders it can begin at once."""
        ...

    def free_apart(self) -> int:
        """How many more orders it can begin that are to be done apart, by who has no model."""
        ...

    def submit(self, order: Order) -> None:
        """Begin an order; only if something is `free`, or `free_apart` if it is to be so done."""
        ...

    def poll(self, seconds: float) -> Sequence[WorkReport]:
        """What the workers reported, waiting at most this long for the first."""
        ...

    def stop(self) -> None:
        """Ask the workers to end after the unit in hand."""
        ...

    def close(self) -> None:
        """End now, whatever is in hand."""
        ...


class InlineExecutor:
    """Does each order in this process, one unit per poll. For tests and for debuggers."""

    def __init__(self) -> None:
        self._order: int | None = None
        self._reports: Iterator[WorkReport] = iter(())

    def begin(self, modules: Iterable[str]) -> None:
        """Nothing: what is imported is imported in this process."""

    def free(self) -> int:
        """One order at a time."""
        return 1 if self._order is None else 0

    def free_apart(self) -> int:
        """None: there is nobody else."""
        return 0

    def submit(self, order: Order) -> None:
        """Remember the order; the work is done by `poll`."""
        self._order, self._reports = order.number, perform(order)

    def poll(self, seconds: float) -> Sequence[WorkReport]:  # noqa: ARG002  nothing to wait for
        """Do the next unit."""
        if self._order is None:
            return []
        report = next(self._reports, WorkReport(order=self._order, unit=None))
        if report.unit is None:
            self._order = None
        return [report]

    def stop(self) -> None:
        """Forget the units that were not begun; the next poll says that the order has ended."""
        self._reports = iter(())

    def close(self) -> None:
        """Forget the units that were not begun."""
        self.stop()


_APART = -1
"""Slot of the worker that has no model."""


@dataclass(slots=True, kw_only=True)
class _Worker:
    process: subprocess.Popen[bytes]
    reports: int
    log: Path | None
    """Where it is to print once it has an order; None where it does so already."""
    buffer: bytearray = field(default_factory=bytearray)
    order: int | None = None


class LocalExecutor:
    """Worker processes on this machine, one per GPU or processor. They outlive their orders."""

    def __init__(
        self,
        logs: Path,
        environments: Sequence[Mapping[str, str]] = ({},),
        apart: Mapping[str, str] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            logs: Directory for what the workers print.
            environments: Variables of each worker, added to ours: for GPUs `gpu_environments`.
            apart: Those of one more, for orders that need no model; None for no such worker.
        """
        self._logs = logs
        self._environments = dict(enumerate(environments))
        self._apart = {} if apart is None else {_APART: apart}
        self._workers: dict[int, _Worker] = {}
        self._started = 0
        self._selector = selectors.DefaultSelector()

    def begin(self, modules: Iterable[str]) -> None:
        """Start the workers, which import while the driver still plans; what they print is lost.

        One that does not come up is started anew when there is an order, and then has a log.
        """
        for slot in self._environments:
            if slot not in self._workers:
                self._workers[slot] = self._start(slot, sorted(modules))

    def free(self) -> int:
        """Workers that have no order, started or not."""
        return len(self._idle(self._environments))

    def free_apart(self) -> int:
        """Whether the worker for orders that need no model has none."""
        return len(self._idle(self._apart))

    def submit(self, order: Order) -> None:
        """Give the order to a worker that has none, starting one if there is none."""
        slot = self._idle(self._apart if order.apart else self._environments)[0]
        if slot not in self._workers:
            self._workers[slot] = self._start(slot)
        worker = self._workers[slot]
        if worker.log is not None:
            log_file(worker.log).close()
            self._tell(worker, LOG + json.dumps(str(worker.log)))
            worker.log = None
        worker.order = order.number
        self._tell(worker, order.to_json())

    def poll(self, seconds: float) -> Sequence[WorkReport]:
        """What the workers reported, and the loss of any that died."""
        reports: list[WorkReport] = []
        for ready, _ in self._selector.select(seconds):
            reports += self._hear(ready.data)
        return reports

    def stop(self) -> None:
        """Ask the workers to end after the unit in hand."""
        for worker in self._workers.values():
            self._tell(worker, STOP)

    def close(self) -> None:
        """Kill the workers: an idle one has nothing to lose, a busy one loses the unit in hand."""
        for worker in self._workers.values():
            worker.process.kill()  # all at once: one with a GPU's memory takes a while to end
        for slot in list(self._workers):
            self._forget(slot)
        self._selector.close()

    def _idle(self, slots: Iterable[int]) -> list[int]:
        """Those whose worker has no order, or was not started."""
        workers = self._workers
        return [slot for slot in slots if slot not in workers or workers[slot].order is None]

    def _start(self, slot: int, modules: Sequence[str] | None = None) -> _Worker:
        """Start a worker; before there is an order, with what it imports meanwhile."""
        ours, theirs = os.pipe()
        self._started += 1
        early = modules is not None
        words = programs.python("steerproof.run.driver.local_worker", str(theirs), *modules or ())
        path = self._logs / f"worker-{os.getpid()}-{self._started}.log"
        with contextlib.nullcontext(subprocess.DEVNULL) if early else log_file(path) as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=programs.environment() | dict((self._environments | self._apart)[slot]),
                pass_fds=(theirs,),
            )
        os.close(theirs)
        os.set_blocking(ours, False)
        self._selector.register(ours, selectors.EVENT_READ, slot)
        return _Worker(process=process, reports=ours, log=path if early else None)

    def _tell(self, worker: _Worker, line: str) -> None:
        if worker.process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):  # it died: its pipe of reports says so
            worker.process.stdin.write(line.encode() + b"\n")
            worker.process.stdin.flush()

    def _hear(self, slot: int) -> list[WorkReport]:
        worker = self._workers[slot]
        ended = False
        with contextlib.suppress(BlockingIOError):
            while part := os.read(worker.reports, 1 << 16):
                worker.buffer += part
            ended = True
        *lines, rest = bytes(worker.buffer).split(b"\n")
        worker.buffer = bytearray(rest)
        reports = [report_from_json(line.decode()) for line in lines]
        if any(report.unit is None for report in reports):
            worker.order = None
        if ended:
            self._forget(slot)
            if worker.order is not None:
                reports.append(_lost(worker.order, worker.process))
        return reports

    def _forget(self, slot: int) -> None:
        worker = self._workers.pop(slot)
        self._selector.unregister(worker.reports)
        os.close(worker.reports)
        if worker.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
        worker.process.wait()


def _lost(order: int, process: subprocess.Popen[bytes]) -> WorkReport:
    code = process.returncode
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    failure = Failure(error=f"worker process {process.pid} was {how}", passing=True)
    return WorkReport(order=order, unit=None, failure=failure, pid=process.pid)


def gpu_environments(count: int, each: int = 1) -> list[dict[str, str]]:
    """Workers that see only their own GPUs.

    Args:
        count: Number of workers.
        each: GPUs of each, of those that `CUDA_VISIBLE_DEVICES` shows if it is set.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(count * each)]
    sets = [names[i * each : (i + 1) * each] for i in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(own)} for own in sets if len(own) == each]


class RayExecutor:
    """One remote task per order on a Ray cluster; only reports travel, results stay on the disk.

    The run directory must be on storage that every node sees under the same path. Ray retries
    nothing: what failed, and whether to try again, is the driver's to decide.
    """

    def __init__(self, slots: int, gpus: float = 0.0, memory: int | None = None) -> None:
        """Connect to the cluster that `RAY_ADDRESS` names, or to one started before.

        Args:
            slots: Most orders at once.
            gpus: GPUs that one order asks for.
            memory: Bytes of main memory that one order asks for; None to ask for none.

        Raises:
            MachineError: Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise MachineError(
                "the ray executor needs Ray: pip install 'steerproof[ray]', or use --executor local"
            ) from error
        if not ray.is_initialized():
            ray.init(logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False)
        self._ray: Any = ray
        self._slots = slots
        self._running: dict[Any, int] = {}
        needs = {"num_cpus": 1, "num_gpus": gpus} | ({"memory": memory} if memory else {})
        self._task: Any = self._ray.remote(
            **needs,
            max_retries=0,
            num_returns="streaming",
            runtime_env={"env_vars": {"PYTHONPATH": programs.environment()["PYTHONPATH"]}},
        )(_ray_task)

    def begin(self, modules: Iterable[str]) -> None:
        """Nothing: which machine an order comes to is Ray's to decide."""

    def free(self) -> int:
        """Orders that may still begin; Ray queues those that find no machine."""
        return self._slots - len(self._running)

    def free_apart(self) -> int:
        """None: Ray's machines are all alike."""
        return 0

    def submit(self, order: Order) -> None:
        """Start a remote task."""
        self._running[self._task.remote(order.to_json())] = order.number

    def poll(self, seconds: float) -> Sequence[WorkReport]:
        """What the tasks reported, and the loss of any whose worker died."""
        if not self._running:
            return []
        running = list(self._running)
        ready, _ = self._ray.wait(running, num_returns=1, timeout=seconds, fetch_local=False)
        return [self._next(stream) for stream in ready]

    def stop(self) -> None:
        """Kill the tasks, which cannot be asked to end early; `poll` says that they are lost."""
        for stream in self._running:
            self._ray.cancel(stream, force=True)

    def close(self) -> None:
        """Kill the tasks and forget them."""
        self.stop()
        self._running.clear()

    def _next(self, stream: Any) -> WorkReport:
        order = self._running[stream]
        try:
            report = report_from_json(self._ray.get(next(stream)))
        except (self._ray.exceptions.RayError, StopIteration) as error:
            failure = Failure(error=f"Ray lost the task: {error!r}", passing=True)
            report = WorkReport(order=order, unit=None, failure=failure)
        if report.unit is None:
            del self._running[stream]
        return report


@no_type_check  # a type checker's wrapper would hide from Ray that this is a generator
def _ray_task(order: str) -> Iterator[str]:
    for report in perform(order_from_json(order)):
        yield report.to_json()
