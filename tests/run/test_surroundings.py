"""Odd surroundings of a process: what it stands in, its mask, its variables, its paths."""

import inspect
import os
import resource
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from steerproof import cli
from steerproof.cli.output import forget_odd_sizes, keep_own_rights, refusal
from steerproof.errors import MachineError
from steerproof.extras import require_engine
from steerproof.run.artefacts import parquet
from steerproof.run.commands.status import status
from steerproof.run.store.directory import open_run
from steerproof.run.store.hold import kernel_lock_works
from steerproof.run.store.manifest import open_unit
from steerproof.run.store.store import unit_directories
from steerproof.surroundings import require_threads, threads_of_numbers
from tests.run.tiny import run_tiny


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
    monkeypatch.setenv("MPLBACKEND", "garbage")
    forget_odd_sizes()
    assert os.environ["MPLBACKEND"] == "agg"
    assert "COLUMNS" not in os.environ
    assert os.environ["LINES"] == "50"


def test_a_python_without_docstrings_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_engine("a model")
    told = SimpleNamespace(flags=SimpleNamespace(optimize=2))
    monkeypatch.setattr("steerproof.surroundings.sys", told)
    with pytest.raises(MachineError, match="PYTHONOPTIMIZE"):
        require_engine("a model")


@pytest.mark.parametrize(
    ("threads", "told"), [("0", True), ("-1", True), ("2", False), ("", False)]
)
def test_an_engine_without_a_thread_is_refused_by_the_name_of_its_variable(
    threads: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    with pytest.raises(MachineError, match="NUMBA_NUM_THREADS is ") if told else nullcontext():
        require_engine("a model")


TIMEOUTS = Path(huggingface_hub.constants.__file__).read_text()
LOGS = "from torch._logging._internal import _update_log_state_from_env as f; f()"


@pytest.mark.parametrize(
    ("name", "library", "code"),
    [
        ("HF_HUB_DOWNLOAD_TIMEOUT", "huggingface_hub", TIMEOUTS),
        ("HF_HUB_ETAG_TIMEOUT", "huggingface_hub", TIMEOUTS),
        ("TORCH_LOGS", "torch", LOGS),
    ],
    ids=lambda value: value if value.isupper() else "",
)
def test_a_variable_that_a_library_cannot_be_imported_with_is_named(
    name: str, library: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "soon")
    with pytest.raises(ValueError, match="soon") as caught:
        exec(compile(code, library, "exec"), {"__name__": library, "__package__": library})
    told = refusal(caught.value)
    assert isinstance(told, MachineError)
    assert str(told).startswith(f"{library} cannot be imported with the environment's {name}: ")
    assert "soon" in str(told)
    assert "unset it" in str(told)


def test_a_value_that_is_none_in_our_own_code_stays_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="soon") as caught:
        int("soon")
    assert refusal(caught.value) is None


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


def test_a_lack_of_descriptors_is_no_damage_of_what_could_not_be_opened(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run")
    directory = next(iter(unit_directories(tmp_path / "run")))
    unit = open_unit(directory)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            open_unit(directory)
        with pytest.raises(OSError, match="Too many open files"):
            unit.read("result.json")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not unit.damage()


@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily"),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_lack_of_memory_is_no_damage_of_a_table(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(parquet.pq, "ParquetFile", refuse)
    unit = SimpleNamespace(read=lambda _: b"", directory=tmp_path)
    with pytest.raises(MemoryError, match="cannot be read"):
        inspect.unwrap(parquet.read_table)(unit, "t.parquet")


def test_too_few_addresses_for_the_engine_are_refused_before_it_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("steerproof.surroundings._address_limit", lambda: 800 << 20)
    with pytest.raises(MachineError, match="800 MiB of addresses"):
        require_engine("a model")
    refused = CliRunner().invoke(cli.app, ["board", str(tmp_path), "--board-dir", "nowhere"])
    assert isinstance(refused.exception, MachineError)
    assert "800 MiB of addresses here (ulimit -v), and the board" in str(refused.exception)


@pytest.mark.parametrize("words", [["status", "run"], ["board", "run", "--board-dir", "nowhere"]])
def test_too_few_threads_are_said_to_be_too_few_before_a_library_ends_the_process(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("sys.argv", ["steerproof", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert "0 more threads can be had here, and numpy takes 4" in capsys.readouterr().err
    with pytest.raises(MachineError, match="a model takes 28"):
        require_engine("a model")
    refused = CliRunner().invoke(cli.app, ["board", "run", "--board-dir", "nowhere"])
    assert "and the board takes 42" in str(refused.exception)


def test_no_more_threads_are_asked_for_than_numpy_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    for name, value, left in (
        ("OMP_NUM_THREADS", "2", 1),
        ("OPENBLAS_NUM_THREADS", "1", 0),
        ("OPENBLAS_NUM_THREADS", "90", 4),
    ):
        monkeypatch.setenv(name, value)
        assert threads_of_numbers() == left
    before = threading.active_count()
    require_threads("this", 20)
    assert threading.active_count() == before
