"""Whoever stops a command while weights are hashed, or has an error, waits for none of them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steerproof.errors import ModelError
from steerproof.model import files
from steerproof.model.base import load_base
from steerproof.run.graph.environment import Place, code_known
from steerproof.run.graph.units import KINDS, experiment_graph
from steerproof.spec.experiment import Model
from tests.experiments import small_experiment
from tests.tiny import save_tiny


class StoppedError(BaseException):
    """What the signal raises."""


def _stopped(*_: object) -> None:
    raise StoppedError


@contextmanager
def stopped_in(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, _stopped)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_command_that_is_stopped_ends_before_the_weights_are_hashed(
    tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PIECE", 1)  # so that it would take half a minute
    for number in range(shards):
        with (tmp_path / f"{number}.safetensors").open("wb") as shard:
            shard.truncate(1 << 25)
    experiment = small_experiment(model=Model(path=str(tmp_path), blocks=2))
    code_known(KINDS)
    began, threads = time.monotonic(), set(threading.enumerate())
    with pytest.raises(StoppedError), stopped_in(0.3):
        experiment_graph(experiment, Place(directory=tmp_path))
    assert time.monotonic() - began < 5
    assert not set(threading.enumerate()) - threads


def test_a_model_that_cannot_be_loaded_is_told_before_its_weights_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny(tmp_path / "model")
    with (model / "model.safetensors").open("r+b") as weights:
        weights.truncate(1 << 12)
    monkeypatch.setattr(files, "_PIECE", 1)
    with (model / "vocab.txt").open("wb") as long:
        long.truncate(1 << 25)
    began, threads = time.monotonic(), set(threading.enumerate())
    with pytest.raises(ModelError):
        load_base(model)
    assert time.monotonic() - began < 5
    assert not set(threading.enumerate()) - threads
