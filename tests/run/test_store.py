import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from steerproof.run.commands.verify import verify
from steerproof.run.graph.graph import Graph, build_graph
from steerproof.run.graph.keys import UnitRecipe
from steerproof.run.store import files, manifest
from steerproof.run.store.manifest import DamagedError, Made, open_unit
from steerproof.run.store.store import (
    commit,
    prepare,
    set_aside,
    sweep,
    unit_directory,
)
from tests.run.tiny import (
    COUNTER,
    contents,
    counts,
    leftovers,
    run_tiny,
    tiny_graph,
    tiny_units,
    u,
    unit,
)

RECIPE = UnitRecipe(
    unit=u("cell/A.villain.c=+2"),
    inputs={"strength": "c=+2"},
    upstream={},
    code="1",
    model={},
    numerics={},
)
MADE = Made(created="2026-01-01T00:00:00+00:00", host="h", attempt=1, seconds=1.5, peak_memory=9)
FILES = {"rates.json": b"[1]", "adapter/weights.bin": b"\x00" * 100}


def stored(run: Path, recipe: UnitRecipe = RECIPE) -> Path:
    prepared = prepare(run, recipe, FILES, {}, MADE)
    return commit(run, prepared, recipe.unit, recipe.key()).directory


def test_a_committed_unit_reads_back_what_was_prepared(tmp_path: Path) -> None:
    place = stored(tmp_path)
    assert place == unit_directory(tmp_path, RECIPE.unit, RECIPE.key())
    assert place.name == f"A.villain.c=+2-{RECIPE.key()[:16]}"
    unit = open_unit(place)
    assert {name: unit.read(name) for name in unit.manifest.files} == FILES
    assert unit.path("rates.json").read_bytes() == b"[1]"
    assert unit.manifest.made == MADE
    assert unit.manifest.recipe == RECIPE
    assert leftovers(tmp_path) == []


def test_the_content_hash_speaks_of_files_only(tmp_path: Path) -> None:
    first = open_unit(stored(tmp_path / "a")).manifest
    later = Made(
        created="2027-01-01T00:00:00+00:00", host="x", attempt=7, seconds=9.0, peak_memory=0
    )
    prepared = prepare(tmp_path / "b", RECIPE, FILES, {}, later)
    assert open_unit(prepared).manifest.content == first.content
    other = prepare(tmp_path / "b", RECIPE, {**FILES, "rates.json": b"[2]"}, {}, MADE)
    assert open_unit(other).manifest.content != first.content


def test_a_prepared_unit_does_not_exist_until_it_is_committed(tmp_path: Path) -> None:
    prepare(tmp_path, RECIPE, FILES, {}, MADE)
    assert contents(tmp_path) == {}
    assert sweep(tmp_path) == 1
    assert leftovers(tmp_path) == []


def test_every_file_is_synced_before_the_manifest_and_all_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def spy_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    (tmp_path / "units" / "cell").mkdir(parents=True)
    monkeypatch.setattr(files.os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    stored(tmp_path)
    temporary = next(step for step in steps if step.startswith(".tmp-"))
    # The first time because `adapter` was made in it; the second one is for all its entries.
    assert steps == [
        "rates.json", temporary, "weights.bin", "adapter", "manifest.json", temporary,
        "rename", "cell",
    ]  # fmt: skip


@pytest.mark.parametrize("seconds", ["Infinity", "NaN", "1e999"])
def test_a_manifest_with_a_number_without_an_end_is_an_altered_one(tmp_path, seconds):
    directory = stored(tmp_path)
    path = directory / "manifest.json"
    text = path.read_text()
    assert '"seconds": 1.5' in text
    path.write_text(text.replace('"seconds": 1.5', f'"seconds": {seconds}'))
    with pytest.raises(DamagedError):
        open_unit(directory)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "manifest.json", ""])
def test_a_unit_cannot_write_outside_of_its_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be a file of a unit"):
        prepare(tmp_path, RECIPE, {name: b""}, {}, MADE)
    assert leftovers(tmp_path) == []


def test_a_unit_is_not_committed_under_another_units_name(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, RECIPE, FILES, {}, MADE)
    with pytest.raises(DamagedError, match="key, expected cell/B"):
        commit(tmp_path, prepared, u("cell/B"), RECIPE.key())


def test_a_prepared_unit_that_was_torn_on_the_way_is_not_committed(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, RECIPE, FILES, {}, MADE)
    (prepared / "adapter" / "weights.bin").write_bytes(b"\x00" * 99)
    with pytest.raises(DamagedError, match="size, expected 100 bytes, found 99 bytes"):
        commit(tmp_path, prepared, RECIPE.unit, RECIPE.key())
    assert contents(tmp_path) == {}


def test_a_unit_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(FileExistsError):
        stored(tmp_path)


def test_the_second_thing_set_aside_under_a_name_does_not_replace_the_first(
    tmp_path: Path,
) -> None:
    first = set_aside(tmp_path, stored(tmp_path))
    second = set_aside(tmp_path, stored(tmp_path))
    assert first != second
    assert json.loads((first / "rates.json").read_bytes()) == [1]
    assert (second / "rates.json").exists()


def test_a_file_is_hashed_once_per_process_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = open_unit(stored(tmp_path))
    hashed: list[Path] = []
    original = manifest.file_sha256
    monkeypatch.setattr(
        manifest, "file_sha256", lambda path: (hashed.append(path), original(path))[1]
    )
    for _ in range(3):
        unit.path("rates.json")
    assert len(hashed) == 0, "the commit has hashed it already, under its temporary name"
    (unit.directory / "rates.json").write_bytes(b"[9]")
    with pytest.raises(DamagedError, match="sha256"):
        unit.path("rates.json")


# --- Every file of a finished run, damaged in every way -------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(path: Path) -> None:
    """Exchange a file with the same file of another unit, of its own kind if there is one."""
    run = next(parent.parent for parent in path.parents if parent.name == "units")
    _, kind, _, *inside = path.relative_to(run).parts
    others = [
        place for place in sorted((run / "units").glob(f"*/*/{'/'.join(inside)}")) if place != path
    ]
    other = min(others, key=lambda place: kind not in place.parts)
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


DAMAGES = (truncate, flip, empty, delete, make_directory, swap)


def siblings() -> Graph:
    """Two adapters and two cells, so that files can be swapped between units of a kind."""
    kept = (u("directions/all"), u("adapter/A.villain"), u("adapter/C.villain"))
    upstream = [replace(unit, upstream=()) for unit in tiny_units() if unit.id in kept]
    cells = [unit("cell", f"{arm}.none", [u(f"adapter/{arm}.villain")]) for arm in "AC"]
    return build_graph([*upstream, *cells, unit("analysis", "all", [cell.id for cell in cells])])


def test_every_file_damaged_in_every_way_is_found_named_and_only_its_unit_redone(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, graph = quick_path / "run", siblings()
    run_tiny(run, graph)
    straight = contents(run)
    places = {unit_directory(run, unit, key): unit for unit, key in graph.keys.items()}
    paths = [path for path in sorted((run / "units").rglob("*")) if path.is_file()]
    cases = [(path, damage) for path in paths for damage in DAMAGES]
    for number, (path, damage) in enumerate(cases):
        counter = quick_path / f"counter-{number}"
        monkeypatch.setenv(COUNTER, str(counter))
        before = {place: place.read_bytes() for place in paths}
        damage(path)
        wrong = {
            place
            for place, data in before.items()
            if not place.is_file() or place.read_bytes() != data
        }
        broken = {unit for place, unit in places.items() if wrong & set(place.rglob("*"))}
        broken |= {unit for place, unit in places.items() if path.is_relative_to(place)}
        case = f"{damage.__name__} {path.relative_to(run)}"

        assert {mismatch.path for mismatch in verify(run)} == wrong, case
        summary = run_tiny(run, graph)
        assert counts(counter) == dict.fromkeys(map(str, broken), 1), case
        assert summary.progress.done == len(broken), case
        assert contents(run) == straight, case
        assert verify(run) == [], case
        assert len(list((run / "quarantine").iterdir())) == len(broken), case
        shutil.rmtree(run / "quarantine")
    print(f"corruption: {len(cases)} cases, {len(paths)} files x {len(DAMAGES)}")  # noqa: T201
    assert len(cases) == 18 * 6


@pytest.mark.parametrize("special", ["pipe", "device"])
@pytest.mark.parametrize("name", ["result.json", "manifest.json"])
def test_a_pipe_or_a_device_in_place_of_a_file_is_damage_and_holds_nobody_up(
    special: str, name: str, tmp_path: Path
) -> None:
    run_tiny(tmp_path)
    graph = tiny_graph()
    damaged = u("adapter/A.villain")
    path = unit_directory(tmp_path, damaged, graph.keys[damaged]) / name
    path.unlink()
    if special == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert [mismatch.path for mismatch in verify(tmp_path)] == [path]
    assert run_tiny(tmp_path).progress.done >= 1
    assert verify(tmp_path) == []


def test_what_desktops_and_copies_leave_does_not_keep_verify_from_being_content(
    tmp_path: Path,
) -> None:
    run_tiny(tmp_path)
    units = tmp_path / "units"
    (units / ".DS_Store").write_bytes(b"x")
    (units / "cell" / ".DS_Store").write_bytes(b"x")
    (units / "cell" / "Thumbs.db").write_bytes(b"x")
    (units / "cell" / ".stfolder").mkdir()
    assert verify(tmp_path) == []
    shutil.copytree(units / "dataset", units / "dataset (copy)")
    first = next((units / "adapter").iterdir())
    shutil.copytree(first, first.with_name(f"{first.name} (1)"))
    assert len(verify(tmp_path)) == 2
    assert run_tiny(tmp_path).progress.done == 0
    assert verify(tmp_path) == [], "what verify advises helps"
    assert len(list((tmp_path / "quarantine").iterdir())) == 2
