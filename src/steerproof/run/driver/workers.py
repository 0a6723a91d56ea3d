"""Which device, which executor: the choices that the command line names."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from steerproof.errors import MachineError, SteerproofError
from steerproof.run.driver.executors import (
    Executor,
    InlineExecutor,
    LocalExecutor,
    RayExecutor,
    gpu_environments,
)
from steerproof.run.driver.gpus import gpus_seen

_PROCESS_BYTES = 3 << 29  # what a worker with torch takes before it loads a model, rounded up


def choose_device(asked: str) -> str:
    """The torch device to use; `auto` takes a GPU if there is one.

    Raises:
        MachineError: The device asked for is not there, or nothing here was tried on its kind.
    """
    if asked == "cpu":
        return asked
    if asked != "auto" and asked.partition(":")[0] != "cuda":
        raise MachineError(
            f"device {asked!r}: attention and the draw have kernels for CPUs and for CUDA GPUs, and"
            " nothing was tried elsewhere (Apple's mps, Intel's xpu); use --device cpu"
        )
    # Importing torch takes seconds: only a question about a GPU is worth them.
    if asked == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    if there := gpus_seen():
        if gpus_of(asked) > 1:
            _check_several(asked, there)
        return "cuda" if asked == "auto" else asked
    import torch

    rocm = torch.version.hip is not None
    if rocm and asked != "auto":
        raise MachineError(
            f"device {asked!r} is an AMD GPU (ROCm {torch.version.hip}), and nothing was tried on"
            " one; use --device cpu"
        )
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() and not rocm else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise MachineError(f"no device {asked!r}: torch sees no GPU; use --device cpu")
    if gpus_of(asked) > 1:
        _check_several(asked, torch.cuda.device_count())
    return asked


def gpus_of(device: str) -> int:
    """GPUs over which a worker's model is: 2 for `cuda:0+1`, none for `cpu`."""
    return device.count("+") + 1 if device.startswith("cuda") else 0


def _check_several(device: str, there: int) -> None:
    """Check a device that is several GPUs, as a worker numbers those that it sees.

    Raises:
        MachineError: There are not so many, or they are not numbered from 0.
    """
    each = gpus_of(device)
    named = "cuda:" + "+".join(map(str, range(each)))
    if device != named:
        raise MachineError(
            f"device {device!r}: a worker numbers the GPUs that it sees from 0; use --device"
            f" {named}, and CUDA_VISIBLE_DEVICES to say which these are"
        )
    if there < each:
        raise MachineError(f"device {device!r} is {each} GPUs, and torch sees {there}")


def make_executor(
    name: str, run: Path, device: str, workers: int | None, weights: int = 0
) -> Executor:
    """The executor of that name.

    Args:
        name: `local`, `inline` or `ray`.
        run: The run directory, for the workers' logs.
        device: A torch device.
        workers: Workers; None for as many as GPUs allow, or on a CPU what `cpu_workers` says.
        weights: Bytes of the base model's checkpoint.

    Raises:
        SteerproofError: There is none of that name, or Ray is not installed.
    """
    makers: Mapping[str, Callable[[], Executor]] = {
        "local": lambda: LocalExecutor(
            run / "logs", _environments(device, workers, weights), _apart(device)
        ),
        "inline": InlineExecutor,
        "ray": lambda: _ray_executor(device, workers or 1, weights),
    }
    if name not in makers:
        raise SteerproofError(f"no executor {name!r}; choose {', '.join(sorted(makers))}")
    if workers is not None and workers < 1:
        raise SteerproofError(f"--workers {workers}: at least 1 is needed")
    return makers[name]()


def _apart(device: str) -> Mapping[str, str] | None:
    """Variables of a worker without a model: beside GPUs, whose hosts have processors to spare."""
    return {"CUDA_VISIBLE_DEVICES": ""} if device.startswith("cuda") else None


def _ray_executor(device: str, workers: int, weights: int) -> RayExecutor:
    """Tasks that ask Ray for their GPUs, if there are to be any, and for room for the model."""
    accelerated = device.startswith("cuda")
    memory = _PROCESS_BYTES + (2 if accelerated else 4) * weights
    return RayExecutor(workers, gpus=float(gpus_of(device)), memory=memory)


def cpu_workers(weights: int) -> int:
    """Worker processes on a CPU: one a core, as far as free memory lets each hold the model.

    Several processes of one thread beat one process of several: small matrix products do not share
    well, and a thread that waits for another is lost. A checkpoint may be half as wide on the disk
    as in memory, and as much again is needed to work with it.

    Args:
        weights: Bytes of the base model's checkpoint.
    """
    fits = psutil.virtual_memory().available // (_PROCESS_BYTES + 4 * weights)
    return max(1, min(_cores(), fits))


def workers_on(device: str, weights: int) -> int:
    """Workers of the local executor when none are asked for: as GPUs allow, or `cpu_workers`."""
    if device.startswith("cuda"):
        return max(1, (gpus_seen() or _gpus_of_torch()) // gpus_of(device))
    return cpu_workers(weights)


def _gpus_of_torch() -> int:
    import torch

    return torch.cuda.device_count()


@contextmanager
def threads_of_a_worker(workers: int, accelerated: bool) -> Iterator[None]:
    """As many threads in this process as one of several workers on a CPU would have."""
    import torch

    before = torch.get_num_threads()
    if not accelerated:
        torch.set_num_threads(max(1, _cores() // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environments(device: str, workers: int | None, weights: int) -> list[Mapping[str, str]]:
    count = workers or workers_on(device, weights)
    share = str(max(1, _cores() // count))
    # What the user has set is meant.
    threads = {name: os.environ.get(name, share) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if device.startswith("cuda"):
        return [own | threads for own in gpu_environments(count, gpus_of(device))]
    return [threads] * count
