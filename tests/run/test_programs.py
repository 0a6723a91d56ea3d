"""What stands in the folder of whoever types a command is none of our programs' business."""

import subprocess
from pathlib import Path

import pytest

from steerproof import programs
from steerproof.run.driver.executors import LocalExecutor
from tests.run.tiny import run_tiny, tiny_graph


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, who calls files as Python and others call theirs; one stands in it."""
    place = tmp_path / "mine"
    place.mkdir()
    for name in ("random", "json", "torch", "numpy", "regex", "spec"):
        (place / f"{name}.py").write_text("raise SystemExit('not to be imported')\n")
    for name in ("steerproof", "board", "run"):
        (place / name).mkdir()
    monkeypatch.chdir(place)
    return place


def test_workers_import_nothing_from_where_the_user_stands(tmp_path: Path) -> None:
    summary = run_tiny(tmp_path / "run", executor=LocalExecutor(tmp_path / "logs"))
    assert summary.progress.done == len(tiny_graph().units)
    assert not summary.failures


def test_what_the_board_starts_imports_nothing_from_where_it_stands() -> None:
    ran = subprocess.run(
        programs.python("steerproof", "--version"),
        env=programs.environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
