"""GPUs are counted without torch where CUDA's driver can say how many there are, and only there."""

import ctypes
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from steerproof.errors import MachineError
from steerproof.run.driver import gpus, workers
from steerproof.run.driver.gpus import gpus_seen

CUDA = "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
ROCM = "cuda: Optional[str] = None\nhip: Optional[str] = '6.3'\n"
CPU = "cuda: Optional[str] = None\nhip: Optional[str] = None\n"


class Driver:
    """CUDA's, as far as it is asked; a code that is not 0 is an error."""

    def __init__(self, count: int = 2, version: int = 12040, failing: str = "") -> None:
        self.count, self.version, self.failing = count, version, failing

    def __getattr__(self, name: str) -> Any:
        answers = {"cuDriverGetVersion": self.version, "cuDeviceGetCount": self.count, "cuInit": 0}
        if name not in answers:
            raise AttributeError(name)

        def call(where: Any) -> int:
            if name != "cuInit":
                where._obj.value = answers[name]
            return 100 if name == self.failing else 0

        return call


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def of(version: str | None, driver: Driver | None) -> None:
        def load(_name: str) -> Driver:
            if driver is None:
                raise OSError("no such library")
            return driver

        spec = ModuleSpec("torch", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        if version is not None:
            (tmp_path / "version.py").write_text(version)
        monkeypatch.setattr(gpus, "find_spec", lambda _: spec)
        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(workers.Path, "glob", lambda *_: iter(["nvidia0"]))

    return of


@pytest.mark.parametrize(
    ("version", "driver", "seen"),
    [
        (CUDA, Driver(), 2),
        (CUDA, Driver(version=13000), 2),
        (CUDA, Driver(version=11080), None),  # torch refuses so old a driver
        (CUDA, Driver(count=0), 0),
        (CUDA, Driver(failing="cuInit"), None),
        (CUDA, Driver(failing="cuDeviceGetCount"), None),
        (CUDA, None, None),
        (CPU, Driver(), None),
        (ROCM, Driver(), None),
        (None, Driver(), None),
    ],
)
def test_only_what_is_plain_is_said(version, driver, seen, machine) -> None:
    machine(version, driver)
    assert gpus_seen() == seen


def test_a_gpu_is_chosen_and_workers_are_counted_without_importing_torch(
    machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(CUDA, Driver(count=5))
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails from here on
    assert workers.choose_device("auto") == "cuda"
    assert workers.choose_device("cuda:0+1") == "cuda:0+1"
    assert workers.workers_on("cuda:0+1", 0) == 2
    with pytest.raises(MachineError, match="6 GPUs, and torch sees 5"):
        workers.choose_device("cuda:0+1+2+3+4+5")


def test_where_the_driver_says_nothing_torch_is_asked(machine, monkeypatch) -> None:
    machine(CUDA, None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError):
        workers.choose_device("auto")
