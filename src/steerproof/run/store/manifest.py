"""The manifest: the record that makes a directory a unit, and the check at every read."""

import json
import math
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from steerproof.codec import digest, read_record
from steerproof.errors import IntegrityError, short_of
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import UnitRecipe, directory_name, file_sha256
from steerproof.run.store.files import TEMPORARY

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHash:
    """What a file must be: hex sha256 and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """How a unit came to be; never part of its content."""

    created: str
    """UTC time at which it was finished, ISO 8601."""
    host: str
    """Name of the machine that did the work."""
    attempt: int
    """Number of the attempt in the ledger."""
    seconds: float
    """Time the work took."""
    peak_memory: int
    """Largest resident memory of the worker so far, bytes."""

    @property
    def ended(self) -> float:
        """Unix time at which it was finished."""
        return datetime.fromisoformat(self.created).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record that makes a directory a unit."""

    recipe: UnitRecipe
    """All that decided the files."""
    key: str
    """sha256 of the recipe."""
    read: Mapping[UnitId, str]
    """Content hash of each upstream unit as it was read."""
    files: Mapping[str, FileHash]
    """Hash and size of each file, by path inside the unit."""
    made: Made
    """When, where and how long."""
    content: str = field(init=False)
    """One hash over all files: equal for two units whose files are equal, byte for byte."""

    def __post_init__(self) -> None:
        # Once: each of a thousand cells asks for the content of the directions that they all read.
        content = digest({name: file.sha256 for name, file in self.files.items()})
        object.__setattr__(self, "content", content)

    @property
    def unit(self) -> UnitId:
        """Which unit it is."""
        return self.recipe.unit

    def to_bytes(self) -> bytes:
        """The manifest as one line of JSON, sealed with the sha256 of everything else in it."""
        body: dict[str, Any] = {
            "format": FORMAT,
            "unit": str(self.unit),
            "key": self.key,
            "recipe": self.recipe.record(),
            "read": {str(unit): content for unit, content in self.read.items()},
            "files": {name: asdict(file) for name, file in self.files.items()},
            "content": self.content,
            "made": asdict(self.made),
        }
        text = json.dumps({**body, "seal": digest(body)}, ensure_ascii=False)
        return text.encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A file that is not what its manifest says."""

    path: Path
    problem: str
    """`missing`, `unreadable`, `size`, `sha256`, `manifest` or `key`."""
    expected: str
    """What was recorded."""
    actual: str
    """What is there."""

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}, expected {self.expected}, found {self.actual}"


class DamagedError(IntegrityError):
    """A file is not what its manifest says; carries the mismatch."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(f"{mismatch}. Run the experiment again: the unit is set aside and redone")
        self.mismatch = mismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUnit:
    """A finished unit on the disk."""

    directory: Path
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """A file's bytes, the very ones that were hashed.

        Raises:
            DamagedError: They do not match the manifest.
            KeyError: The unit has no such file.
        """
        expected, path = self.manifest.files[name], self.directory / name
        with _readable(path, expected):
            _size_of(path, expected)
            data = path.read_bytes()
        _compare(path, expected, FileHash(sha256=sha256(data).hexdigest(), size=len(data)))
        return data

    def path(self, name: str) -> Path:
        """A file's path, for memory mapping, after its bytes were hashed (once per process).

        Raises:
            DamagedError: The file does not match the manifest.
            KeyError: The unit has no such file.
        """
        expected, path = self.manifest.files[name], self.directory / name
        with _readable(path, expected):
            _size_of(path, expected)
            actual = _hash_of(path)
        _compare(path, expected, actual)
        return path

    def damage(self) -> list[Mismatch]:
        """Every file that is not what the manifest says; empty for a sound unit."""
        mismatches = []
        for name in self.manifest.files:
            try:
                self.path(name)
            except DamagedError as error:
                mismatches.append(error.mismatch)
        return mismatches


def hash_damage(path: Path, expected: str) -> list[Mismatch]:
    """The mismatch of a file without the sha256 that was recorded of it; empty for a sound one."""
    actual = file_sha256(path) if path.is_file() else "no file"
    if actual == expected:
        return []
    problem = "sha256" if path.is_file() else "missing"
    return [Mismatch(path=path, problem=problem, expected=expected, actual=actual)]


_hashed: dict[tuple[int, ...], FileHash] = {}


def _size_of(path: Path, expected: FileHash) -> None:
    """Ask what a file is and how large before it is read: a pipe or a device has no end.

    Raises:
        DamagedError: It is no file, or one of another size.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        wanted = f"{expected.size} bytes, sha256 {expected.sha256}"
        raise DamagedError(_mismatch(path, "unreadable", wanted, "no file"))
    _compare(path, expected, FileHash(sha256=expected.sha256, size=status.st_size))


def _hash_of(path: Path) -> FileHash:
    """Hash a file, once per process for as long as it does not change, wherever it is moved."""
    status = path.stat()
    seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if seen not in _hashed:
        _hashed[seen] = FileHash(sha256=file_sha256(path), size=status.st_size)
    return _hashed[seen]


@contextmanager
def _readable(path: Path, expected: FileHash) -> Iterator[None]:
    wanted = f"{expected.size} bytes, sha256 {expected.sha256}"
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(_mismatch(path, "missing", wanted, "no file")) from error
    except OSError as error:
        if short_of(error):
            raise
        raise DamagedError(_mismatch(path, "unreadable", wanted, str(error.strerror))) from error


def _compare(path: Path, expected: FileHash, actual: FileHash) -> None:
    if actual.size != expected.size:
        wanted, actual_size = f"{expected.size} bytes", f"{actual.size} bytes"
        raise DamagedError(_mismatch(path, "size", wanted, actual_size))
    if actual.sha256 != expected.sha256:
        raise DamagedError(_mismatch(path, "sha256", expected.sha256, actual.sha256))


def _mismatch(path: Path, problem: str, expected: str, actual: str) -> Mismatch:
    return Mismatch(path=path, problem=problem, expected=expected, actual=actual)


def open_unit(directory: Path) -> StoredUnit:
    """Read a unit's manifest and check that it is whole and belongs to its directory.

    Files are hashed when they are read (`StoredUnit.read`), or at once by `StoredUnit.damage`.

    Raises:
        DamagedError: The manifest is missing, torn, altered, of another format, or another unit's.
    """
    path = directory / MANIFEST
    if path.exists() and not path.is_file():
        raise DamagedError(_mismatch(path, "manifest", "a manifest", "no file"))
    try:
        data = path.read_bytes()
        written = read_record(_FormatOf, data, MANIFEST).format
        if written != FORMAT:
            wrong = f"format {written}"
            raise DamagedError(_mismatch(path, "manifest", f"format {FORMAT}", wrong))
        manifest = read_record(Manifest, data, MANIFEST)
    except DamagedError:
        raise
    except FileNotFoundError as error:
        raise DamagedError(_mismatch(path, "missing", "a manifest", "no file")) from error
    except (OSError, IntegrityError) as error:
        if short_of(error):
            raise
        raise DamagedError(_mismatch(path, "manifest", "a manifest", str(error))) from error
    if not _is_whole(manifest, data):
        raise DamagedError(_mismatch(path, "manifest", "what its seal says", "an altered file"))
    place = f"{directory.parent.name}/{directory.name}"
    own = directory_name(manifest.unit, manifest.key)
    if own != place and not directory.name.startswith(TEMPORARY):
        raise DamagedError(_mismatch(path, "key", place, own))
    return StoredUnit(directory=directory, manifest=manifest)


def _is_whole(manifest: Manifest, data: bytes) -> bool:
    """Whether it is what was written.

    Written again from what was read, the bytes differ if any of them, the seal too, was altered;
    of a number without an end, or a date that is none, nothing can be written.
    """
    try:
        return manifest.to_bytes() == data and math.isfinite(manifest.made.ended)
    except (ValueError, OverflowError):
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _FormatOf:
    """As much of a manifest as tells how to read it."""

    format: int
