"""Several pools in threads: the tokens of one, every push counted once, nothing left behind."""

import threading

import pytest
import torch

from steerproof.engine import generate as generation
from steerproof.engine.generate import Engine, Limits
from steerproof.engine.pool import RowPool
from steerproof.errors import MachineError
from tests.engine.subjects import SETTINGS, adapters, base_of, mixed_rows
from tests.engine.test_generation import texts


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """A shard for every four rows; afterwards no thread is left, and torch's number is the same."""
    monkeypatch.setattr(generation, "_SHARD_ROWS", 4)
    before = torch.get_num_threads()
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("shard")]
    torch.set_num_threads(before)


def engine_of(architecture="qwen2", cells=8):
    return Engine(base_of(architecture), mixed_rows(architecture, cells), audit_every=1)


def audit(engine):
    return engine._subject.steering.audit()


def drawn(engine, threads, **options):
    torch.set_num_threads(threads)
    found = texts(engine.generate(SETTINGS, **options))
    assert torch.get_num_threads() == threads
    return found


def shards_used(monkeypatch, threads):
    """The threads in which pools take their steps; each waits for the others' first."""
    used, step, meeting = set(), RowPool.step, threading.Barrier(threads)

    def seen(pool, choose):
        name = threading.current_thread().name
        if name not in used:
            used.add(name)
            meeting.wait(timeout=60)
        return step(pool, choose)

    monkeypatch.setattr(RowPool, "step", seen)
    return used


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
@pytest.mark.parametrize("most", [9, 2048])
def test_a_text_does_not_depend_on_the_number_of_shards(architecture, most, monkeypatch):
    engine = engine_of(architecture)
    limits = Limits(max_rows=most)
    alone = drawn(engine, 1, limits=limits)
    before = audit(engine)
    for threads in (2, 3):
        with monkeypatch.context() as patch:
            used = shards_used(patch, threads)
            assert drawn(engine, threads, limits=limits) == alone
        assert len(used) == threads
        assert threading.current_thread().name not in used
    after = audit(engine)
    assert all(after.firings[layer] > 3 * before.firings[layer] for layer in before.firings)
    for first, last in zip(before.slots, after.slots, strict=True):
        assert last.push_norm == pytest.approx(first.push_norm, rel=1e-6)
    assert engine._subject.base.model.config._attn_implementation == "sdpa"


def positions(audit):
    return [slot.positions for slot in audit.slots]


def test_what_shards_push_is_in_the_audit_while_they_run_and_when_they_were_stopped():
    wholly = [engine_of() for _ in range(2)]
    for threads, engine in enumerate(wholly, start=1):
        drawn(engine, threads, limits=Limits(max_rows=4 * threads))
    one, two = map(audit, wholly)
    # Ended rows stay in a batch for a few steps, which depends on the batch: they are counted too.
    for a, b in zip(positions(one), positions(two), strict=True):
        assert b == pytest.approx(a, rel=0.25)
    engine = engine_of()
    torch.set_num_threads(2)
    found = engine.generate(SETTINGS)
    next(found)
    assert sum(positions(audit(engine))) > 0
    found.close()
    stopped = audit(engine)
    assert sum(positions(stopped)) < sum(positions(two))
    assert stopped == audit(engine)
    assert torch.get_num_threads() == 2
    assert not engine._subject.base.blocks[1]._forward_hooks


def test_progress_adds_up_over_shards():
    rows, seen = mixed_rows(), []
    drawn(Engine(base_of("qwen2"), rows), 2, on_progress=seen.append)
    assert all(p.done + p.running + p.waiting == len(rows) for p in seen)
    assert max(p.running for p in seen) > len(rows) / 2
    assert [seen[-1].done, seen[-1].running] == [len(rows), 0]
    assert sorted(p.done for p in seen) == [p.done for p in seen]


def failing(monkeypatch, error, calls):
    """Let some steps of one shard fail."""
    step, lock, victims, made = RowPool.step, threading.Lock(), [], []

    def sometimes(pool, choose):
        with lock:
            me = threading.current_thread().name
            victims.append(me)
            if me == victims[0]:
                made.append(me)
                if len(made) in calls:
                    raise error
        return step(pool, choose)

    monkeypatch.setattr(RowPool, "step", sometimes)
    return made


def test_memory_that_runs_out_in_one_shard_slows_it_down_and_changes_no_text(monkeypatch):
    engine = engine_of()
    alone = drawn(engine, 1)
    failed = failing(monkeypatch, torch.OutOfMemoryError("out of memory"), (4, 9))
    assert drawn(engine, 2) == alone
    assert len(failed) > 9


def test_memory_for_not_even_one_family_in_a_shard_is_an_error(monkeypatch):
    failing(monkeypatch, torch.OutOfMemoryError("out of memory"), range(1, 100))
    with pytest.raises(MachineError, match="one prompt"):
        drawn(engine_of(cells=6), 2)


def test_an_error_in_one_shard_is_raised_and_ends_the_others(monkeypatch):
    engine = engine_of()
    with monkeypatch.context() as patch:
        failing(patch, RuntimeError("something else"), (3,))
        with pytest.raises(RuntimeError, match="something else"):
            drawn(engine, 2)
    assert not engine._subject.base.blocks[1]._forward_hooks
    assert drawn(engine, 2) == drawn(engine, 1)


def test_an_error_in_the_callback_is_raised_to_the_caller():
    def fail(_progress):
        raise KeyboardInterrupt

    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt):
        list(engine_of(cells=6).generate(SETTINGS, on_progress=fail))
    assert torch.get_num_threads() == 2


def test_few_rows_take_one_shard_in_the_caller_s_thread(monkeypatch):
    monkeypatch.setattr(generation, "_SHARD_ROWS", 64)
    used = shards_used(monkeypatch, 1)
    drawn(engine_of(cells=6), 2)
    assert used == {threading.current_thread().name}


def test_an_adapter_s_rows_stay_in_one_shard_and_neighbours_go_apart():
    families = generation._grouped(mixed_rows(cells=8, questions=1, samples=1))
    dealt = [
        adapters("qwen2").index(family[0].adapter) for family in generation._dealt(families, 2)
    ]
    assert dealt == [0, 0, 2, 2, 1, 1, 3, 3]
