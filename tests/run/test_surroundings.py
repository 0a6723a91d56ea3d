"""Odd surroundings of a process: what it stands in, its mask, its variables, its paths."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from steerproof import cli
from steerproof.cli.output import forget_odd_sizes, keep_own_rights
from steerproof.errors import MachineError
from steerproof.extras import require_engine
from steerproof.run.commands.status import status
from steerproof.run.store.directory import open_run
from steerproof.run.store.hold import kernel_lock_works


@pytest.mark.parametrize("mask", [0o777, 0o077, 0o022, 0])
def test_whoever_writes_a_file_can_read_it_under_any_mask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        keep_own_rights()
        (tmp_path / "file").write_text("x")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~(mask & 0o077)
    finally:
        os.umask(before)


def test_a_directory_that_is_gone_is_said_to_be_gone_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused = CliRunner().invoke(cli.app, ["status", "run"])
    assert isinstance(refused.exception, MachineError)
    assert "cd into one that is there" in str(refused.exception)
    assert CliRunner().invoke(cli.app, ["--version"]).exit_code == 0


@pytest.mark.parametrize("size", ["9" * 20, "9" * 5000, "0", "-1", "text", "", "1e3"])
def test_a_size_that_no_terminal_has_is_not_drawn_by(
    size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", size)
    monkeypatch.setenv("LINES", "50")
    forget_odd_sizes()
    assert "COLUMNS" not in os.environ
    assert os.environ["LINES"] == "50"


def test_a_python_without_docstrings_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_engine("a model")
    told = SimpleNamespace(flags=SimpleNamespace(optimize=2))
    monkeypatch.setattr("steerproof.extras.sys", told)
    with pytest.raises(MachineError, match="PYTHONOPTIMIZE"):
        require_engine("a model")


def test_the_lock_is_tried_by_a_python_that_nothing_around_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fcntl.py").write_text("raise SystemExit('not to be imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert kernel_lock_works(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_path_that_sqlite_does_not_take_is_said_to_be_too_long(tmp_path: Path) -> None:
    run = tmp_path.joinpath(*["d" * 200] * 3, "run")
    with pytest.raises(MachineError, match="takes paths of up to 511 bytes"), open_run(run, "x"):
        pass
    told = status(run).problem
    assert told is None or "takes paths of up to 511 bytes" in told
