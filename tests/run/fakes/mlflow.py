"""Stands in for MLflow: writes what it is told into the directory that MLFLOW_FAKE names."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_calls: list = []


def set_experiment(name: str) -> None:
    _calls.append(["experiment", name])


@contextmanager
def start_run(run_name: str) -> Iterator[None]:
    _calls.append(["start", run_name])
    yield
    Path(os.environ["MLFLOW_FAKE"]).write_text(json.dumps(_calls))


def log_metrics(values: dict, step: int) -> None:
    _calls.append(["log", step, values])
