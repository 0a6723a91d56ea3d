"""What earlier units made is opened and read once, however many units read it."""

import gc
from collections import Counter
from dataclasses import asdict
from hashlib import sha256
from unittest.mock import create_autospec

import pytest
import torch

from steerproof.engine.lora.peft_files import WEIGHTS, write_peft
from steerproof.errors import IntegrityError
from steerproof.model.base import Base
from steerproof.run.driver import worker
from steerproof.run.driver.worker import Order, OrderItem, Task, perform
from steerproof.run.graph.graph import build_graph
from steerproof.run.graph.keys import UnitRecipe
from steerproof.run.stages import upstream
from steerproof.run.stages.upstream import Upstream
from steerproof.run.store.directory import open_run
from steerproof.run.store.manifest import FileHash, Made, Manifest, StoredUnit, open_unit
from steerproof.run.store.store import unit_directory
from steerproof.study.geometry import LayerGeometry
from tests.engine.test_lora import adapter
from tests.run.tiny import ENVIRONMENT, contents, run_tiny, u, unit
from tests.tiny import tiny_base

CELLS = "abcd"


def test_each_unit_is_opened_once_for_all_that_read_it(tmp_path, monkeypatch):
    run = tmp_path / "run"
    read = [unit("directions", name) for name in ("one", "other")]
    cells = [unit("cell", name, [one.id for one in read]) for name in CELLS]
    graph = build_graph([*read, *cells])
    run_tiny(run, graph)
    opened: Counter[str] = Counter()
    real = worker.open_unit

    def counting(place):
        opened[place.parent.name + "/" + place.name.partition("-")[0]] += 1
        return real(place)

    monkeypatch.setattr(worker, "open_unit", counting)
    items = tuple(
        OrderItem(recipe=graph.recipes[one.id], attempt=2, present=tuple(one.upstream))
        for one in cells
    )
    with open_run(run, "x") as directory:
        token = directory.lock.token
        order = Order(number=1, run=run, work=cells[0].work, items=items, token=token)
        reports = list(perform(order))
    assert [report.failure for report in reports] == [None] * 5
    assert opened == {"directions/one": 1, "directions/other": 1}
    made = [report.prepared for report in reports if report.prepared]
    stored = contents(run)
    for name, place in zip(CELLS, made, strict=True):
        text = (place / "result.json").read_bytes()
        assert any(name in path and (run / path).read_bytes() == text for path in stored)


def test_directions_are_read_once_and_a_damaged_file_is_told_to_each(tmp_path, monkeypatch):
    units = [unit("directions", name) for name in ("low", "high", "damaged")]
    graph = build_graph(units)
    run_tiny(tmp_path / "run", graph)
    stored = {
        one.id.name: open_unit(unit_directory(tmp_path / "run", one.id, graph.keys[one.id]))
        for one in units
    }
    read: list[str] = []

    def from_unit(one, _seed):
        name = one.manifest.unit.name
        read.append(name)
        if name == "damaged":
            raise IntegrityError("not what its manifest says")
        return create_autospec(LayerGeometry, instance=True, layer=len(read))

    monkeypatch.setattr(upstream.directions, "from_unit", from_unit)

    def task(*names: str) -> Task:
        there = {stored[name].manifest.unit: stored[name] for name in names}
        return Task(unit=u("cell/a"), key="k", inputs={}, upstream=there)

    known = Upstream(create_autospec(Base, instance=True), 0)
    for _ in range(3):
        known.directions(task("low", "high"))
    assert read == ["low", "high"]
    for _ in range(2):
        with pytest.raises(IntegrityError):
            known.directions(task("low", "damaged"))
    assert read[2:] == ["damaged"] * 2


def adapter_unit_in(run, name: str, files: dict[str, bytes]) -> StoredUnit:
    place = run / name
    place.mkdir(parents=True)
    hashes = {}
    for file, data in files.items():
        (place / file).write_bytes(data)
        hashes[file] = FileHash(sha256=sha256(data).hexdigest(), size=len(data))
    recipe = UnitRecipe(unit=u("adapter/A"), inputs={}, upstream={}, **asdict(ENVIRONMENT))
    made = Made(created="", host="", attempt=1, seconds=0.0, peak_memory=0)
    manifest = Manifest(recipe=recipe, key="0" * 64, read={}, files=hashes, made=made)
    return StoredUnit(directory=place, manifest=manifest)


def needs(stored: StoredUnit) -> Task:
    return Task(unit=u("cell/a"), key="k", inputs={}, upstream={u("adapter/A"): stored})


def test_an_adapter_is_read_once_for_all_orders_of_a_model_and_again_when_it_is_another(
    tmp_path, monkeypatch
):
    base, other = tiny_base(), tiny_base()
    read = []
    real = upstream.read_peft

    def counting(directory, base):
        read.append(directory.name)
        return real(directory, base)

    monkeypatch.setattr(upstream, "read_peft", counting)
    one, again = (write_peft(base, adapter(base, seed), "x") for seed in (1, 2))
    first, redone = (
        adapter_unit_in(tmp_path, name, f) for name, f in (("one", one), ("again", again))
    )
    known = Upstream(base, 0).adapter(needs(first))
    assert Upstream(base, 0).adapter(needs(first)) is known
    assert read == ["one"]
    new = Upstream(base, 0).adapter(needs(redone))
    assert new is not None
    assert known is not None
    key = next(key for key in known.tensors if "lora_B" in key)
    assert not torch.equal(new.tensors[key], known.tensors[key])
    assert Upstream(other, 0).adapter(needs(first)) is not known
    assert read == ["one", "again", "one"]


def test_an_adapter_that_was_read_and_is_damaged_since_is_not_used(tmp_path):
    base = tiny_base()
    stored = adapter_unit_in(tmp_path, "one", write_peft(base, adapter(base, 3), "x"))
    assert Upstream(base, 0).adapter(needs(stored)) is not None
    weights = stored.directory / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(IntegrityError):
        Upstream(base, 0).adapter(needs(stored))


def test_what_was_read_for_a_model_goes_with_it():
    base = tiny_base()
    gc.collect()
    before = len(upstream._READ)
    upstream._READ.setdefault(base.model, {})
    assert len(upstream._READ) == before + 1
    del base
    gc.collect()
    assert len(upstream._READ) <= before
