import ast
import errno
import os
import stat
from pathlib import Path

import pytest

import steerproof
from steerproof.errors import DiskFullError, MachineError
from steerproof.run.store import files
from steerproof.run.store.files import make_directory, write_file
from tests.run.tiny import run_tiny

SOURCE = Path(steerproof.__file__).parent
# Who may open a file for writing, besides the one function: why.
ALLOWED = {
    "run/store/files.py": "the one function itself, and the logs of workers",
    "run/store/doing.py": "what a worker is at: nothing reads it again, so it need not be synced",
    "run/store/hold.py": "the kernel lock is an open file",
    "run/store/ledger_file.py": "SQLite writes its file; created here for its mode",
}
WRITING_METHODS = {"write_text", "write_bytes", "touch"}


def test_a_written_file_is_there_whole_for_its_owner_only(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"one")
    write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_says_how_many_bytes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        DiskFullError, match=r"1,234 bytes needed, [\d,]+ bytes available"
    ) as caught:
        write_file(tmp_path / "a", bytes(1234))
    assert caught.value.exit_code == 6
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208


def test_a_real_full_device_is_told_as_one() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(DiskFullError), files.explained(Path("/dev/full"), 9):
        Path("/dev/full").write_bytes(b"some bytes")


def test_ctrl_c_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "a", b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("fsync directory" if is_directory else "fsync file")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_file(tmp_path / "a", b"x")
    assert steps == ["fsync file", "rename", "fsync directory"]


def test_a_directory_that_cannot_be_written_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(MachineError, match="Permission denied") as caught:
        write_file(tmp_path / "a", b"x")
    assert caught.value.exit_code == 3


def test_what_stands_in_the_way_of_a_file_or_directory_is_named_and_left(tmp_path: Path) -> None:
    (tmp_path / "report.html" / "notes").mkdir(parents=True)
    with pytest.raises(MachineError, match=r"report\.html is a directory\. .* move it away"):
        write_file(tmp_path / "report.html", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "results").symlink_to("nowhere")
    with pytest.raises(MachineError, match=r"results is no directory\. .* move it away"):
        make_directory(tmp_path / "results" / "figures")


def test_directories_of_a_run_are_for_their_owner_only(tmp_path: Path) -> None:
    make_directory(tmp_path / "run" / "units")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    run_tiny(tmp_path / "other")
    assert stat.S_IMODE((tmp_path / "other" / "ledger.sqlite").stat().st_mode) == 0o600
    for path in (tmp_path / "other").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def writes(source: str) -> list[int]:
    """Lines of a program that open a file for writing, by whichever of the usual ways."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Name):
            name = node.func.id
        texts = [
            argument.value
            for argument in (*node.args, *(keyword.value for keyword in node.keywords))
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        modes = [text for text in texts if set(text) <= set("rwaxbt+") and set(text) & set("wax+")]
        low = isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "os.open"
        if name in WRITING_METHODS or low or (name in {"open", "fdopen"} and modes):
            lines.append(node.lineno)
    return lines


def test_the_search_for_writes_finds_each_way_of_writing() -> None:
    ways = ["open(p, 'w')", "p.open('ab')", "p.write_text('')", "p.write_bytes(b'')"]
    ways += ["open(p, mode='x')", "os.open(p, os.O_WRONLY)", "os.fdopen(3, 'r+b')", "p.touch()"]
    assert all(writes(way) for way in ways)
    assert not any(writes(way) for way in ("open(p)", "p.open('rb')", "p.read_text('utf-8')"))


def test_only_one_function_writes_in_the_run_package() -> None:
    found = {
        path.relative_to(SOURCE).as_posix(): lines
        for path in SOURCE.glob("run/**/*.py")
        if (lines := writes(path.read_text()))
    }
    # The worker's pipe of reports is not a file of the run directory.
    found.pop("run/driver/local_worker.py", None)
    assert set(found) <= set(ALLOWED), f"writes files without store.write_file: {found}"
    assert {"run/store/files.py", "run/store/hold.py"} <= set(found)
