"""Is this machine fit? Every answer is tried out, not looked up."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from steerproof.errors import SteerproofError
from steerproof.extras import ENGINE
from steerproof.run.store.files import make_directory, sync_directory, write_file
from steerproof.run.store.hold import kernel_lock_works
from steerproof.run.store.ledger import trouble

_OK, _WARN, FAIL = "ok", "warn", "fail"
_NEEDED = ("torch", "transformers", "safetensors", "numpy", "pyarrow")
_OPTIONAL = ("ray",)
_TOKENS = ("HF_TOKEN",)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCheck:
    """One thing about this machine."""

    name: str
    """What was looked at."""
    level: str
    """`ok`, `warn` (it works, with less) or `fail` (it does not work)."""
    value: str
    """What was found."""
    remedy: str = ""
    """What to do about it; empty if nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an experiment needs; zero for what is not known."""

    disk: int = 0
    """Bytes that it will write."""
    memory: int = 0
    """Bytes of main memory that a worker takes."""
    gpus: int = 0
    """GPUs that it was asked to use."""


def doctor(
    directory: Path,
    needs: Needs = Needs(),
    model: Callable[[], str] | None = None,
) -> list[MachineCheck]:
    """Try this machine and the filesystem of a run directory.

    Args:
        directory: Where the run directory is or will be; created if it does not exist.
        needs: What the experiment's plan says.
        model: Loads the base model and its chat template and describes them in a line; raises a
            `SteerproofError` if they are unusable.

    Returns:
        One check each; a machine with a `fail` is unfit.
    """
    checks = [
        MachineCheck(name="python", level=_OK, value=sys.version.partition(" ")[0]),
        *(_package(name) for name in _NEEDED),
        *(_extra(name) for name in _OPTIONAL),
        _processors(),
        _memory(needs),
        _gpus(needs),
        *_filesystem(directory, needs),
        *(_token(name) for name in _TOKENS),
    ]
    if model is not None:
        checks.append(_model(model))
    return checks


def unfit(directory: Path, needs: Needs) -> list[str]:
    """What of memory and disk will not do for a run here, in the words of `doctor`.

    Args:
        directory: The run directory, which need not exist; what it holds already is there.
        needs: What the experiment's plan says.
    """
    checks = (_memory(needs), _disk(directory, needs))
    return [f"{one.name}: {one.value}; {one.remedy}" for one in checks if one.level == FAIL]


def _package(name: str) -> MachineCheck:
    try:
        return MachineCheck(name=name, level=_OK, value=version(name))
    except PackageNotFoundError:
        remedy = f"pip install {'steerproof[run]' if name in ENGINE else name}"
        return MachineCheck(name=name, level=FAIL, value="not installed", remedy=remedy)


def _extra(name: str) -> MachineCheck:
    try:
        return MachineCheck(name=name, level=_OK, value=version(name))
    except PackageNotFoundError:
        return MachineCheck(name=name, level=_OK, value="not installed (optional)")


def _processors() -> MachineCheck:
    return MachineCheck(name="processors", level=_OK, value=str(os.cpu_count()))


def _memory(needs: Needs) -> MachineCheck:
    free = psutil.virtual_memory().available
    value = f"{_size(free)} available"
    if free >= needs.memory:
        return MachineCheck(name="memory", level=_OK, value=value)
    remedy = f"the plan needs {_size(needs.memory)}: use a smaller batch or another machine"
    return MachineCheck(name="memory", level=FAIL, value=value, remedy=remedy)


def _gpus(needs: Needs) -> MachineCheck:
    """GPUs by the driver's own tool: no torch is imported for it."""
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader"]
        answer = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=60)
        gpus = answer.stdout.strip().splitlines() if answer.returncode == 0 else []
    value = f"{len(gpus)}: {'; '.join(gpus)}" if gpus else "none: everything runs on the CPU"
    if len(gpus) >= needs.gpus:
        return MachineCheck(name="gpus", level=_OK, value=value)
    remedy = f"{needs.gpus} were asked for: check the driver and CUDA_VISIBLE_DEVICES"
    return MachineCheck(name="gpus", level=FAIL, value=value, remedy=remedy)


def _filesystem(directory: Path, needs: Needs) -> list[MachineCheck]:
    """Try what the store, the lock and the ledger rely on, in a directory of their own."""
    try:
        make_directory(directory)
        with tempfile.TemporaryDirectory(prefix=".tmp-doctor-", dir=directory) as place:
            return [
                _rename(Path(place)),
                _lock(Path(place)),
                _wal(Path(place)),
                _disk(directory, needs),
            ]
    except (SteerproofError, OSError) as error:
        remedy = "make it writable or choose another one with --dir"
        return [MachineCheck(name="directory", level=FAIL, value=str(error), remedy=remedy)]


def _rename(place: Path) -> MachineCheck:
    try:
        make_directory(place / "before")
        write_file(place / "before" / "file", b"some bytes")
        (place / "before").rename(place / "after")
        sync_directory(place)
        whole = (place / "after" / "file").read_bytes() == b"some bytes"
    except (SteerproofError, OSError) as error:
        return MachineCheck(
            name="rename and fsync", level=FAIL, value=str(error), remedy="another --dir"
        )
    level = _OK if whole else FAIL
    return MachineCheck(
        name="rename and fsync", level=level, value="works" if whole else "lost bytes"
    )


def _lock(place: Path) -> MachineCheck:
    if kernel_lock_works(place):
        return MachineCheck(name="kernel lock", level=_OK, value="a second process is refused")
    return MachineCheck(
        name="kernel lock",
        level=_WARN,
        value="a second process was not refused",
        remedy="the heartbeat lease still guards the run; a dead driver on another machine then "
        "needs --steal",
    )


def _wal(place: Path) -> MachineCheck:
    probe = place / "probe.sqlite"
    try:
        with closing(sqlite3.connect(probe)) as connection:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            connection.execute("CREATE TABLE t (x)")
    except sqlite3.Error as error:
        remedy = "put the run directory on a local disk"
        return MachineCheck(name="sqlite", level=FAIL, value=trouble(probe, error), remedy=remedy)
    if mode == "wal":
        return MachineCheck(
            name="sqlite", level=_OK, value=f"{sqlite3.sqlite_version}, write-ahead log"
        )
    return MachineCheck(
        name="sqlite",
        level=_WARN,
        value=f"{sqlite3.sqlite_version}, no write-ahead log here",
        remedy="the ledger falls back to a rollback journal: slower, as safe",
    )


def _disk(directory: Path, needs: Needs) -> MachineCheck:
    there = next(place for place in (directory, *directory.absolute().parents) if place.is_dir())
    free, written = shutil.disk_usage(there).free, _bytes_below(directory / "units")
    value = f"{_size(free)} free"
    if free >= needs.disk - written:
        return MachineCheck(name="disk", level=_OK, value=value)
    remedy = f"the plan needs {_size(needs.disk)}: free space or choose another --dir"
    return MachineCheck(name="disk", level=FAIL, value=value, remedy=remedy)


def _bytes_below(directory: Path) -> int:
    """Size of all files of a directory that others may be writing into."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def _token(name: str) -> MachineCheck:
    """Whether a secret is set; what it is stays unsaid."""
    return MachineCheck(name=name, level=_OK, value="set" if os.environ.get(name) else "not set")


def _model(model: Callable[[], str]) -> MachineCheck:
    try:
        return MachineCheck(name="model", level=_OK, value=model())
    except SteerproofError as error:
        return MachineCheck(name="model", level=FAIL, value=str(error), remedy="see the message")


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
