"""Ways to damage a copy of a finished run: what is in a file, what is sealed, what stands there.

Each takes the directory of the run and a source of chance, and says what it did.
"""

import hashlib
import io
import json
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load, save

from steerproof.codec import digest
from steerproof.errors import SteerproofError
from tests.attack.databases import damaged_database
from tests.attack.mutations import NASTY, VALUES, mutated_bytes, mutated_json, mutated_lines
from tests.run.test_one_bad_unit import reseal

Damage = Callable[[Path, random.Random], str]
MADE_FROM = ("score", "analysis")


def instead(path: Path, chance: random.Random) -> str:
    """Put something else where a file was: nothing, a directory, a loop, a pipe, a device."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match chance.randrange(7):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.name)
        case 2:
            os.mkfifo(path)
        case 3:
            path.symlink_to("/dev/zero")
        case 4:
            path.symlink_to("not-there")
        case 5:
            path.write_bytes(chance.choice(NASTY))
        case _:
            return "lost"
    return "no file"


def changed(name: str, data: bytes, chance: random.Random) -> bytes:
    """Another content for a file of this name: of its kind mostly, of any bytes now and then."""
    how = chance.random()
    if how < 0.15:
        return mutated_bytes(data, chance)
    if how < 0.2:
        return chance.choice(NASTY)
    if name.endswith((".json", ".jsonl")) or name == "experiment.yaml":
        return _json_bytes(mutated_json(json.loads(data), chance), chance)
    if name.endswith(".csv"):
        return mutated_lines(data.decode(), chance).encode(errors="surrogatepass")
    if name.endswith(".parquet"):
        return _other_table(data, chance)
    if name.endswith(".safetensors"):
        return _other_tensors(data, chance)
    return mutated_bytes(data, chance)


def _json_bytes(value: object, chance: random.Random) -> bytes:
    text = json.dumps(value)
    if chance.random() < 0.1 and text.startswith("{") and len(text) > 2:  # a key twice
        text = '{"a": 1, ' + text[1:-1] + ', "a": 2}'
    return text.encode()


def _other_table(data: bytes, chance: random.Random) -> bytes:
    """A table with values, rows or columns changed, or the types of its columns."""
    table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
    out = io.BytesIO()
    try:
        if chance.random() < 0.4:
            pq.write_table(_other_column(table, chance), out)
        else:
            rows = mutated_json(table.to_pylist(), chance)
            schema = table.schema if chance.random() < 0.5 else None
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), out)
    except (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError, KeyError):
        return mutated_bytes(data, chance)
    return out.getvalue()


def _other_column(table: pa.Table, chance: random.Random) -> pa.Table:
    at = chance.randrange(table.num_columns)
    name, rows = table.column_names[at], table.num_rows
    value = chance.choice((None, -1, 0, 2**31 - 1, 2**62, 0.5, float("nan"), "", "x", b"\xff", []))
    match chance.randrange(6):
        case 0:
            return table.drop_columns([name])
        case 1:
            return table.append_column(name, table.column(at))
        case 2:
            return table.slice(0, chance.randrange(rows + 1))
        case 3:
            return pa.concat_tables([table, table.slice(0, 1)])
        case 4:
            return table.rename_columns([chance.choice(["", name, "x"]) for _ in table.columns])
        case _:
            return table.set_column(at, name, pa.array([value] * rows))


_TYPES = ("int8", "bool", "float64", "complex64", "uint64", "float16")


def _other_tensors(data: bytes, chance: random.Random) -> bytes:
    """Tensors that are lost, renamed, of other numbers, shapes or types; or another header."""
    if chance.random() < 0.25:
        length = struct.unpack("<Q", data[:8])[0]
        header = json.dumps(mutated_json(json.loads(data[8 : 8 + length]), chance)).encode()
        told = chance.choice((len(header), len(header), len(header), 2**63, 0, len(header) + 1))
        return struct.pack("<Q", told) + header + data[8 + length :]
    tensors = dict(load(data))
    for _ in range(chance.choice((1, 1, 3))):
        if tensors:
            name = chance.choice(sorted(tensors))
            _spoil(tensors, name, chance)
    note = chance.choice((None, {"format": "pt"}, {"format": "np", "x": "\u202e"}))
    return save({key: np.asarray(each) for key, each in tensors.items()}, metadata=note)


def _spoil(tensors: dict[str, np.ndarray], name: str, chance: random.Random) -> None:
    value = tensors[name]
    with np.errstate(all="ignore"):
        match chance.randrange(6):
            case 0:
                del tensors[name]
            case 1:
                tensors[chance.choice((f"{name}.x", "", "x" * 5000, "\u202e"))] = value
            case 2:
                tensors.clear()
            case 3:
                for each in tensors:
                    tensors[each] = tensors[each] * np.float32(chance.choice((0, -1, 1e18)))
            case _:
                tensors[name] = chance.choice(_SPOILT)(value, chance)


_SPOILT: tuple[Callable[[np.ndarray, random.Random], np.ndarray], ...] = (
    lambda value, chance: np.full_like(value, chance.choice((np.nan, np.inf, 0, 1e30))),
    lambda value, chance: value.astype(chance.choice(_TYPES)),
    lambda value, _: value.T.copy(),
    lambda value, _: value.reshape(-1),
    lambda value, _: value[:0],
    lambda value, _: np.concatenate([value, value]) if value.ndim else value,
    lambda _value, _: np.ones((), "float32"),
    lambda _value, _: np.zeros((1,) * 20, "float32"),
)
"""What a tensor may be replaced by."""


def _unit(run: Path, kinds: tuple[str, ...], chance: random.Random) -> Path:
    units = [unit for kind in kinds for unit in sorted((run / "units" / kind).iterdir())]
    return chance.choice(units)


def record_of(*kinds: str, sealed: float = 0.75) -> Damage:
    """A file of a finished unit is another; mostly sealed again, so that its content is judged."""

    def damage(run: Path, chance: random.Random) -> str:
        unit = _unit(run, kinds, chance)
        file = chance.choice([p for p in sorted(unit.iterdir()) if p.name != "manifest.json"])
        what = f"{unit.parent.name}/{file.name}"
        how = chance.random()
        if how > 0.97:
            return f"{what}: {instead(file, chance)}"
        other = _unit(run, kinds, chance) / file.name
        data = (other if how > 0.92 and other.is_file() else file).read_bytes()
        new = data if how > 0.92 else changed(file.name, data, chance)
        if chance.random() < sealed:
            reseal(unit, **{file.name: new})
            what += " sealed"
        else:
            file.write_bytes(new)
        if not set(kinds) & {*MADE_FROM, "graded"} and chance.random() < 0.3:
            forget(run, *MADE_FROM)
        elif kinds == ("score",) and chance.random() < 0.3:
            forget(run, "analysis")
        if chance.random() < 0.2:
            shutil.rmtree(run / "results")
        return what

    return damage


def forget(run: Path, *kinds: str) -> None:
    """Take all units of some kinds away."""
    for kind in kinds:
        shutil.rmtree(run / "units" / kind, ignore_errors=True)


def manifest_of_a_unit(run: Path, chance: random.Random) -> str:
    """A unit's manifest: its fields changed, sealed again or not; another's; no file."""
    kinds = tuple(sorted(path.name for path in (run / "units").iterdir()))
    unit = _unit(run, (chance.choice(kinds),), chance)
    file = unit / "manifest.json"
    how = chance.random()
    if how < 0.08:
        return f"manifest: {instead(file, chance)}"
    if how < 0.14:
        file.write_bytes((_unit(run, kinds, chance) / file.name).read_bytes())
        return "manifest of another"
    if how < 0.2:
        unit.rename(unit.with_name(unit.name + chance.choice((" (1)", "x", "-", "~"))))
        return "a unit under another name"
    if how < 0.4:
        file.write_bytes(changed(file.name, file.read_bytes(), chance))
        return "manifest"
    value = mutated_json(json.loads(file.read_bytes()), chance)
    if isinstance(value, dict):
        value.pop("seal", None)
        with suppress(ValueError, TypeError):
            value["seal"] = digest(value)
    file.write_bytes(json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n")
    return "manifest sealed"


def results(run: Path, chance: random.Random) -> str:
    """What was published: one or two files, mostly with the list of hashes made anew."""
    place, did = run / "results", []
    files = sorted(path for path in place.rglob("*") if path.is_file())
    records = [path for path in files if path.suffix in (".json", ".csv", ".parquet")]
    for _ in range(chance.choice((1, 1, 2))):
        file = chance.choice(records if chance.random() < 0.8 else files)
        did.append(file.name)
        if chance.random() < 0.08 or not file.is_file():
            did.append(instead(file, chance))
        else:
            file.write_bytes(changed(file.name, file.read_bytes(), chance))
    if chance.random() < 0.6 and (place / "manifest.json").is_file():
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            _publish_again(place)
            did.append("sealed")
    return " ".join(did)


def _publish_again(place: Path) -> None:
    listed = json.loads((place / "manifest.json").read_bytes())
    for name in listed["files"]:
        if (place / name).is_file():
            listed["files"][name] = hashlib.sha256((place / name).read_bytes()).hexdigest()
    text = json.dumps(listed, sort_keys=True, separators=(",", ":"))
    (place / "manifest.json").write_bytes(text.encode() + b"\n")


LOCK, STORY, COPY = "experiment.lock.json", "deviations.jsonl", "experiment.yaml"
LEDGER = "ledger.sqlite"


def registration(run: Path, chance: random.Random) -> str:
    """The lock, the deviations or the experiment's copy: changed, sealed again, cut, lost."""
    match chance.randrange(8):
        case 0 | 1:
            return _lock(run, chance)
        case 2 | 3 | 4:
            return _story(run / STORY, run, chance)
        case 5:
            file = run / COPY
            file.write_bytes(changed(COPY, file.read_bytes(), chance))
            return COPY
        case 6:
            for name in chance.sample((LOCK, STORY, COPY), chance.randrange(1, 4)):
                (run / name).unlink()
            return "registration lost"
        case _:
            name = chance.choice((LOCK, STORY, COPY))
            return f"{name}: {instead(run / name, chance)}"


def _lock(run: Path, chance: random.Random) -> str:
    file, what = run / LOCK, LOCK
    if chance.random() < 0.25:
        file.write_bytes(changed(LOCK, file.read_bytes(), chance))
        return what
    value = mutated_json(json.loads(file.read_bytes()), chance)
    if isinstance(value, dict) and chance.random() < 0.7:
        body = {key: part for key, part in value.items() if key not in ("sha256", "time")}
        value["sha256"] = _sealed(body)
        what += " sealed"
        if chance.random() < 0.4:
            _tell_ledger(run, "locked", value["sha256"])
            what += " ledger too"
    file.write_bytes(json.dumps(value, indent=1, sort_keys=True).encode())
    return what


def _story(file: Path, run: Path, chance: random.Random) -> str:
    lines = file.read_bytes().splitlines(keepends=True)
    at = chance.randrange(len(lines))
    match chance.randrange(7):
        case 0:
            file.write_bytes(mutated_bytes(file.read_bytes(), chance))
            return STORY
        case 1:
            chance.shuffle(lines)
        case 2:
            lines.insert(at, chance.choice((*NASTY, b"\n", b"\x85\n", b"\r", lines[0], b" ")))
        case 3:
            del lines[at]
        case _:
            value = mutated_json(json.loads(lines[at]), chance)
            if isinstance(value, dict) and chance.random() < 0.7:
                value["sha256"] = _sealed({k: v for k, v in value.items() if k != "sha256"})
                if chance.random() < 0.5:
                    _tell_ledger(run, "deviated", value["sha256"])
            lines[at] = json.dumps(value).encode() + b"\n"
    file.write_bytes(b"".join(lines))
    return STORY


def _sealed(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _tell_ledger(run: Path, what: str, sha256: str) -> None:
    """As somebody would who knows where the hashes are kept."""
    last = "event = (SELECT max(event) FROM events WHERE what = ?)"
    with closing(sqlite3.connect(run / LEDGER)) as rows:
        detail = json.dumps({"sha256": sha256})
        rows.execute(f"UPDATE events SET detail = ? WHERE {last}", (detail, what))
        rows.commit()


def leases(run: Path, chance: random.Random) -> str:
    """What says who works here: the last lease, one more, or what stands beside them."""
    place = run / "lock"
    files = sorted(place.glob("lease-*.json"))
    file = chance.choice((files[-1], files[-1], chance.choice(files)))
    value = json.loads(file.read_bytes())
    match chance.randrange(8):
        case 0:
            return f"lease: {instead(chance.choice([file, place / 'kernel']), chance)}"
        case 1:
            names = (
                "lease-000099.json",
                "lease-999999999999.json",
                "lease-x.json",
                "lease- 7.json",
            )
            (place / chance.choice(names)).write_bytes(file.read_bytes())
            return "one more lease"
        case 2:
            value |= {"released": False, chance.choice(sorted(value)): chance.choice(VALUES)}
            file.write_text(json.dumps(value))
            return "a lease that is not released"
        case 3:
            shutil.rmtree(place)
            with suppress(OSError):
                instead(place, chance)
            return "no directory of leases"
        case _:
            file.write_bytes(changed(file.name, file.read_bytes(), chance))
            return "lease"


KINDS: dict[str, Damage] = {
    "cells": record_of("cell"),
    "directions": record_of("directions"),
    "answers": record_of("answers"),
    "datasets": record_of("dataset"),
    "adapters": record_of("adapter"),
    "slots": record_of("slots", "graded"),
    "scores": record_of("score"),
    "analyses": record_of("analysis"),
    "manifests": manifest_of_a_unit,
    "results": results,
    "registration": registration,
    "leases": leases,
    "ledgers": lambda run, chance: damaged_database(run / LEDGER, chance),
}
UNBUILDABLE = (SafetensorError, SteerproofError, ValueError, OverflowError)
"""What a mutation may not be able to write; it is drawn again."""
