"""How many workers, with how many threads each."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steerproof.errors import MachineError, SteerproofError
from steerproof.run.driver import workers
from steerproof.run.driver.executors import InlineExecutor, LocalExecutor, RayExecutor
from steerproof.run.driver.workers import (
    choose_device,
    cpu_workers,
    make_executor,
    threads_of_a_worker,
)


@pytest.fixture(autouse=True)
def only_torch_knows_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine's driver says is no part of what is tried here."""
    monkeypatch.setattr(workers, "gpus_seen", lambda: None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def of(cores: int, gibibytes: float) -> None:
        free = SimpleNamespace(available=int(gibibytes * 2**30))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(workers.psutil, "virtual_memory", lambda: free)

    return of


@pytest.mark.parametrize(
    ("cores", "gibibytes", "weights", "expected"),
    [
        (8, 64, 8 << 20, 8),  # a small model: one a core
        (8, 64, 15 << 30, 1),  # 7B in bfloat16 takes 60 GiB as float32 with room to work
        (8, 8, 8 << 20, 5),  # little memory
        (2, 0.1, 15 << 30, 1),  # never none: the run itself says that memory is short
    ],
)
def test_a_cpu_gets_a_worker_per_core_as_far_as_memory_goes(
    cores: int, gibibytes: float, weights: int, expected: int, machine
) -> None:
    machine(cores, gibibytes)
    assert cpu_workers(weights) == expected


def test_threads_that_the_user_has_set_are_meant(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(8, 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    environments = workers._environments("cpu", 3, 0)
    assert environments == [{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}] * 3


def test_the_workers_of_a_cpu_share_its_cores(
    machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(8, 64)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    environments = workers._environments("cpu", 3, 0)
    assert environments == [{"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}] * 3
    executor = make_executor("local", tmp_path, "cpu", None)
    assert isinstance(executor, LocalExecutor)
    assert executor.free() == 8
    executor.close()


@pytest.mark.parametrize("name", ["local", "inline", "ray"])
@pytest.mark.parametrize("number", [0, -1])
def test_no_workers_at_all_are_refused(name: str, number: int, tmp_path: Path) -> None:
    with pytest.raises(SteerproofError, match=f"--workers {number}: at least 1 is needed"):
        make_executor(name, tmp_path, "cpu", number)


@pytest.mark.parametrize(
    ("device", "gpus", "memory"),
    [
        ("cpu", 0.0, 5.5 * 2**30),
        ("cuda:0", 1.0, 3.5 * 2**30),
        ("cuda:0+1", 2.0, 3.5 * 2**30),
    ],
)
def test_a_ray_task_asks_for_a_gpu_and_for_room_to_load_the_model(
    device: str, gpus: float, memory: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def remember(slots: int, **needs: float) -> RayExecutor:
        asked.update(needs, slots=slots)
        return object.__new__(RayExecutor)  # without a cluster

    monkeypatch.setattr(workers, "RayExecutor", remember)
    make_executor("ray", tmp_path, device, 3, weights=1 << 30)
    assert asked == {"slots": 3, "gpus": gpus, "memory": memory}


def test_an_unknown_executor_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SteerproofError, match="choose inline, local, ray"):
        make_executor("slurm", tmp_path, "cpu", None)
    assert isinstance(make_executor("inline", tmp_path, "cpu", None), InlineExecutor)


def test_the_device_asked_for_is_taken_and_a_missing_one_is_an_error() -> None:
    assert choose_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(SteerproofError, match="use --device cpu"):
            choose_device("cuda")


def test_threads_are_as_before_after_a_trial(machine) -> None:
    machine(1, 64)
    before = torch.get_num_threads()
    with threads_of_a_worker(4, accelerated=False):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("device", ["mps", "xpu:0", "hpu"])
def test_a_device_on_which_nothing_was_tried_is_refused_plainly(device: str) -> None:
    with pytest.raises(MachineError, match="use --device cpu"):
        choose_device(device)


def test_a_gpu_under_rocm_is_refused_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(workers.Path, "glob", lambda *_: iter(["nvidia0"]))
    assert choose_device("auto") == "cpu"
    with pytest.raises(MachineError, match=r"ROCm 6\.3"):
        choose_device("cuda")


def test_a_worker_over_two_gpus_takes_two_and_they_are_dealt_out_in_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert choose_device("cuda:0+1") == "cuda:0+1"
    seen = [own["CUDA_VISIBLE_DEVICES"] for own in workers._environments("cuda:0+1", None, 0)]
    assert seen == ["0,1", "2,3"]
    # Both with all cores would wait for each other's threads.
    monkeypatch.setattr(workers, "_cores", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shares = [own["OMP_NUM_THREADS"] for own in workers._environments("cuda:0+1", None, 0)]
    assert shares == ["6", "6"]
    executor = make_executor("local", tmp_path, "cuda:0+1", None)
    assert executor.free() == 2
    executor.close()


@pytest.mark.parametrize(
    ("device", "error"),
    [("cuda:2+3", r"use --device cuda:0\+1"), ("cuda:0+1+2", "3 GPUs, and torch sees 2")],
)
def test_gpus_that_a_worker_would_not_see_are_refused(
    device: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MachineError, match=error):
        choose_device(device)
