"""Stands in for W&B: writes what it is told where `init` says."""

import json
from pathlib import Path

_calls: list = []
_place = Path()


def init(project: str, name: str, dir: str) -> None:
    global _place
    _place = Path(dir)
    _calls.append(["init", project, name])


def log(values: dict, step: int) -> None:
    _calls.append(["log", step, values])


def finish() -> None:
    (_place / "wandb.json").write_text(json.dumps(_calls))
