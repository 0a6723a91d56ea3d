"""Which device, which executor: the choices that the command line names."""

from collections.abc import Callable, Mapping
from pathlib import Path

from steerproof.errors import MachineError, SteerproofError
from steerproof.run.executors import (
    Executor,
    InlineExecutor,
    LocalExecutor,
    RayExecutor,
    gpu_environments,
)


def choose_device(asked: str) -> str:
    """The torch device to use; `auto` takes a GPU if there is one.

    Raises:
        MachineError: The device asked for is not there.
    """
    if asked == "cpu":
        return asked
    # Importing torch takes seconds: only a question about a GPU is worth them.
    if asked == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise MachineError(f"no device {asked!r}: torch sees no GPU; use --device cpu")
    return asked


def make_executor(name: str, run: Path, device: str, workers: int | None) -> Executor:
    """The executor of that name.

    Raises:
        SteerproofError: There is none of that name, or Ray is not installed.
    """
    makers: Mapping[str, Callable[[], Executor]] = {
        "local": lambda: LocalExecutor(run / "logs", _environments(device, workers)),
        "inline": InlineExecutor,
        "ray": lambda: RayExecutor(workers or 1, gpus=1.0 if device.startswith("cuda") else 0.0),
    }
    if name not in makers:
        raise SteerproofError(f"no executor {name!r}; choose {', '.join(sorted(makers))}")
    return makers[name]()


def _environments(device: str, workers: int | None) -> list[Mapping[str, str]]:
    if device.startswith("cuda"):
        import torch

        return list(gpu_environments(workers or torch.cuda.device_count()))
    return [{}] * (workers or 1)
