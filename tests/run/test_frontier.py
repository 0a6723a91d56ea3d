"""Which units a worker gets, and which it waits for."""

from dataclasses import asdict

from steerproof.run.graph.frontier import ENOUGH, Frontier, Group
from steerproof.run.graph.graph import Unit, build_graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import UnitRecipe
from steerproof.run.graph.survey import survey
from steerproof.run.store.manifest import Made, Manifest, StoredUnit
from steerproof.run.store.store import unit_directory
from tests.run.tiny import ENVIRONMENT, u, unit


def frontier(units: list[Unit], tmp_path) -> Frontier:
    graph = build_graph(units)
    started = Frontier(graph, survey(tmp_path, graph))
    started.begin()
    return started


def done(tmp_path, name: UnitId) -> StoredUnit:
    made = Made(created="", host="", attempt=1, seconds=0.0, peak_memory=0)
    recipe = UnitRecipe(unit=name, inputs={}, upstream={}, **asdict(ENVIRONMENT))
    manifest = Manifest(recipe=recipe, key="0" * 64, read={}, files={}, made=made)
    return StoredUnit(directory=unit_directory(tmp_path, name, "0" * 64), manifest=manifest)


def two_adapters(cells: int) -> list[Unit]:
    adapters = [unit("adapter", name) for name in "AB"]
    readers = [
        unit("cell", f"{adapter.id.name}.{number}", [adapter.id])
        for adapter in adapters
        for number in range(cells)
    ]
    return [*adapters, *readers]


def size(taken: tuple[Group, list[UnitId]] | None) -> int:
    return 0 if taken is None else len(taken[1])


def test_a_few_units_wait_for_the_rest_of_their_group_while_others_are_at_work(tmp_path) -> None:
    held = frontier(two_adapters(cells=3), tmp_path)
    assert held.take(1) == (
        ("tests.run.tiny:work", "adapter"),
        [u("adapter/A"), u("adapter/B")],
    )
    held.finish(u("adapter/A"), done(tmp_path, u("adapter/A")))
    assert held.take(1, busy=1) is None, "adapter/B will make three more cells ready"
    held.finish(u("adapter/B"), done(tmp_path, u("adapter/B")))
    assert size(held.take(1)) == 6, "all of the group in one batch"


def test_a_worker_leaves_the_others_their_share_though_they_are_at_work(tmp_path) -> None:
    held = frontier([unit("adapter", str(number)) for number in range(7)], tmp_path)
    sizes = [size(held.take(1, busy=2)) for _ in range(3)]
    assert sizes == [3, 3, 1]
    assert held.take(1, busy=2) is None


def test_they_do_not_wait_when_nobody_is_at_work(tmp_path) -> None:
    held = frontier(two_adapters(cells=3), tmp_path)
    held.take(1)
    held.finish(u("adapter/A"), done(tmp_path, u("adapter/A")))
    taken = held.take(1, busy=0)
    assert taken is not None
    assert len(taken[1]) == 3


def test_they_do_not_wait_when_they_are_enough(tmp_path) -> None:
    held = frontier(two_adapters(cells=ENOUGH), tmp_path)
    held.take(1)
    held.finish(u("adapter/A"), done(tmp_path, u("adapter/A")))
    taken = held.take(1, busy=1)
    assert taken is not None
    assert len(taken[1]) == ENOUGH


def test_a_failed_unit_ends_the_waiting_for_what_it_blocks(tmp_path) -> None:
    held = frontier(two_adapters(cells=3), tmp_path)
    held.take(1)
    held.finish(u("adapter/A"), done(tmp_path, u("adapter/A")))
    held.give_up(u("adapter/B"))
    assert len(held.blocked) == 3
    taken = held.take(1, busy=1)
    assert taken is not None
    assert len(taken[1]) == 3


def test_a_group_that_waits_does_not_hold_up_another(tmp_path) -> None:
    units = [*two_adapters(cells=1), unit("dataset", "late", [u("adapter/A")])]
    held = frontier(units, tmp_path)
    held.take(1)
    held.finish(u("adapter/A"), done(tmp_path, u("adapter/A")))
    taken = held.take(1, busy=1)
    assert taken == (("tests.run.tiny:work", "dataset"), [u("dataset/late")])
    assert held.take(1, busy=1) is None
