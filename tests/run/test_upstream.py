"""What earlier units made is opened and read once an order, however many units read it."""

from collections import Counter
from unittest.mock import create_autospec

import pytest

from steerproof.errors import IntegrityError
from steerproof.model.base import Base
from steerproof.run.driver import worker
from steerproof.run.driver.worker import Order, OrderItem, Task, perform
from steerproof.run.graph.graph import build_graph
from steerproof.run.stages import upstream
from steerproof.run.stages.upstream import Upstream
from steerproof.run.store.directory import open_run
from steerproof.run.store.manifest import open_unit
from steerproof.run.store.store import unit_directory
from steerproof.study.geometry import LayerGeometry
from tests.run.tiny import contents, run_tiny, u, unit

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
