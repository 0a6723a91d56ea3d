"""The run directory's units: written whole or not at all, and never used without their hash.

A unit is one directory, `units/<kind>/<name>-<key>/`. It is *prepared* in a temporary sibling
(files, then `manifest.json` with the sha256 and size of each, all fsynced) by whoever did the
work, and *committed* by one rename, which only the holder of the run directory's lock does. A
directory without a manifest that verifies does not exist for anybody; a damaged one is set aside,
never deleted.
"""

import errno
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path, PurePosixPath

from steerproof.codec import canonical, plain, read_record
from steerproof.errors import IntegrityError
from steerproof.limits import whole_file
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import UnitRecipe, directory_name
from steerproof.run.store.faults import fault_point
from steerproof.run.store.files import (
    TEMPORARY,
    explained,
    make_directory,
    sync_directory,
    temporary_name,
    write_file,
    write_files,
    write_synced,
)
from steerproof.run.store.manifest import (
    MANIFEST,
    DamagedError,
    FileHash,
    Made,
    Manifest,
    Mismatch,
    StoredUnit,
    hash_damage,
    open_unit,
)


def unit_directory(run: Path, unit: UnitId, key: str) -> Path:
    """Where a unit with this key lies in a run directory, whether it exists or not."""
    return run / "units" / directory_name(unit, key)


def unit_directories(run: Path) -> Iterator[Path]:
    """Every committed unit directory, in order of kind and name.

    What desktops and sync tools leave, files and hidden directories, is none.
    """
    for kind in sorted((run / "units").glob("*")):
        for place in sorted(kind.iterdir()) if kind.is_dir() else ():
            if place.is_dir() and not place.name.startswith("."):
                yield place


def prepare(
    run: Path,
    recipe: UnitRecipe,
    files: Mapping[str, bytes],
    read: Mapping[UnitId, str],
    made: Made,
) -> Path:
    """Write a unit into a temporary sibling of its place, ready to be committed by one rename.

    Args:
        run: The run directory.
        recipe: All that decided the files.
        files: The unit's files, by relative path.
        read: Content hash of each upstream unit that was read, by id.
        made: When, where, how long.

    Returns:
        The temporary directory.

    Raises:
        DiskFullError: No space; the temporary directory is removed.
        MachineError: The run directory cannot be written.
    """
    kind = recipe.unit.kind
    parent = run / "units" / kind
    fault_point("temp.before", kind)
    make_directory(parent)
    temporary = parent / temporary_name()
    try:
        with explained(parent, sum(map(len, files.values()))):
            temporary.mkdir(mode=0o700)
            written = [_write_inside(temporary, name, data, kind) for name, data in files.items()]
            # Its own directory is synced once, below: until then the unit does not exist.
            for place in dict.fromkeys(path.parent for path in written):
                if place != temporary:
                    sync_directory(place)
            fault_point("temp.after", kind)
            hashes = {name: _hash_of(data) for name, data in files.items()}
            manifest = Manifest(recipe=recipe, key=recipe.key(), read=read, files=hashes, made=made)
            fault_point("manifest.before", kind)
            write_synced(temporary / MANIFEST, manifest.to_bytes(), kind)
            sync_directory(temporary)
            fault_point("manifest.after", kind)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return temporary


def _hash_of(data: bytes) -> FileHash:
    return FileHash(sha256=sha256(data).hexdigest(), size=len(data))


def _write_inside(temporary: Path, name: str, data: bytes, kind: str) -> Path:
    """Write a file of a unit; its entry in the directory is still to be synced."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or name in ("", MANIFEST):
        raise ValueError(f"{name!r} cannot be a file of a unit")
    path = temporary / inside
    make_directory(path.parent)
    write_synced(path, data, kind)
    return path


def commit(run: Path, prepared: Path, unit: UnitId, key: str) -> StoredUnit:
    """Verify a prepared unit and make it exist, by one rename. Only the lock's holder may do so.

    Raises:
        DamagedError: What was prepared is not the unit asked for, or not what its manifest says.
        FileExistsError: The unit exists already: set it aside first.
    """
    kind = unit.kind
    stored = open_unit(prepared)
    if (stored.manifest.unit, stored.manifest.key) != (unit, key):
        committed = f"{stored.manifest.unit} {stored.manifest.key}"
        raise DamagedError(
            Mismatch(path=prepared, problem="key", expected=f"{unit} {key}", actual=committed)
        )
    for mismatch in stored.damage():
        raise DamagedError(mismatch)
    target = unit_directory(run, unit, key)
    if target.exists():
        raise FileExistsError(errno.EEXIST, "the unit exists already", str(target))
    fault_point("rename.before", kind)
    with explained(target, 0):
        prepared.rename(target)
        sync_directory(target.parent)
    fault_point("rename.after", kind)
    return StoredUnit(directory=target, manifest=stored.manifest)


def prepared_units(run: Path, kinds: Collection[str]) -> Iterator[StoredUnit]:
    """Units of these kinds that are whole and not committed: their worker is at it, or died."""
    for kind in kinds:
        for place in sorted((run / "units" / kind).glob(f"{TEMPORARY}*")):
            with suppress(DamagedError):  # half-written
                yield open_unit(place)


def set_aside(run: Path, damaged: Path) -> Path:
    """Move a unit, or any other file, to `quarantine/`, where nothing looks. Nothing is deleted.

    Returns:
        Its new place.
    """
    quarantine = run / "quarantine"
    make_directory(quarantine)
    label = ".".join(damaged.relative_to(run).parts).removeprefix("units.")
    number = 1
    while (place := quarantine / f"{label}-{number}").exists():
        number += 1
    with explained(place, 0):
        damaged.rename(place)
        sync_directory(quarantine)
        sync_directory(damaged.parent)
    return place


def sweep(run: Path) -> int:
    """Remove what dead processes left half-written. Only the lock's holder may do so.

    Returns:
        The number of temporary files and directories removed.
    """
    kinds = [place for place in (run / "units").glob("*") if place.is_dir()]
    results = [place for place in (run / "results").rglob("*") if place.is_dir()]
    left = [
        entry
        for place in (run, run / "lock", *kinds, run / "results", *results)
        if place.is_dir()
        for entry in place.iterdir()
        if entry.name.startswith(TEMPORARY)
    ]
    for entry in left:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(left)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """The manifest of the results: the hash of each file, by path."""

    files: Mapping[str, str]


def publish(run: Path, files: Mapping[str, bytes]) -> None:
    """Write `results/` and then its manifest, so that `verify` can check it.

    Args:
        run: The run directory.
        files: Bytes by path below `results/`.
    """
    results = run / "results"
    make_directory(results)
    (results / MANIFEST).unlink(missing_ok=True)
    write_files(results, files)
    hashes = {name: sha256(data).hexdigest() for name, data in files.items()}
    write_file(results / MANIFEST, canonical(plain(_Published(files=hashes))) + b"\n")


def results_damage(run: Path) -> list[Mismatch]:
    """Every published result that is not what `results/manifest.json` says."""
    results = run / "results"
    path = results / MANIFEST
    try:
        published = read_record(_Published, whole_file(path), MANIFEST)
    except FileNotFoundError:
        return []
    except (OSError, IntegrityError) as error:
        return [Mismatch(path=path, problem="manifest", expected="a manifest", actual=str(error))]
    found = (hash_damage(results / name, expected) for name, expected in published.files.items())
    return list(chain.from_iterable(found))
