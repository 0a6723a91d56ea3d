"""Training in several pools at once: each adapter's trajectory alone, nothing left behind."""

import threading
from dataclasses import replace

import pytest
import torch

from steerproof.engine import train as training
from steerproof.engine.train import FailedAdapter, Pooling, TrainedAdapter, train
from tests.engine.test_training import (
    ROUNDING,
    difference,
    examples,
    mixed_jobs,
    recipe,
    trained,
)
from tests.tiny import tiny_base


@pytest.fixture(autouse=True)
def two_threads():
    """Two shards; afterwards no thread is left, and torch's number of them is what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("shard")]
    torch.set_num_threads(before)


def shards_used(monkeypatch):
    """The threads in which pools take steps, and how many adapters each had at once."""
    used, step, meeting = {}, training._Pool.step, threading.Barrier(2)

    def seen(pool, report):
        name = threading.current_thread().name
        if name.startswith("shard") and name not in used:
            meeting.wait(timeout=60)
        used[name] = max(used.get(name, 0), len(pool.residents))
        return step(pool, report)

    monkeypatch.setattr(training._Pool, "step", seen)
    return used


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
@pytest.mark.parametrize("pooling", [Pooling(), Pooling(adapters=2, tokens=80, checkpointing=True)])
def test_an_adapter_in_a_shard_has_the_trajectory_it_has_alone(architecture, pooling, monkeypatch):
    base, how = tiny_base(architecture, dtype=torch.float64), recipe(dropout=0.3)
    used = shards_used(monkeypatch)
    sharded = trained(base, mixed_jobs(), how, pooling)
    assert len(used) == 2
    assert max(used.values()) <= (pooling.adapters or 4) / 2 + 1
    for job in mixed_jobs():
        alone, other = trained(base, [job], how)[job.key], sharded[job.key]
        assert isinstance(alone, TrainedAdapter)
        assert isinstance(other, TrainedAdapter)
        assert other.losses == pytest.approx(alone.losses, abs=ROUNDING)
        assert other.gradient_norms == pytest.approx(alone.gradient_norms, abs=ROUNDING)
        assert difference(alone.weights, other.weights) < ROUNDING
        assert other.tokens == alone.tokens
        for here, there in zip(other.pushes, alone.pushes, strict=True):
            assert here.measured.positions == there.measured.positions
            assert here.measured.push_norm == pytest.approx(there.measured.push_norm, abs=1e-9)


def test_an_idle_shard_takes_over_what_waits_in_another(monkeypatch):
    short = [replace(mixed_jobs()[1], key=f"short {i}") for i in range(2)]
    long = [replace(mixed_jobs()[2], key=f"long {i}", examples=examples(20, i)) for i in range(4)]
    by_thread, finish = {}, training._Pool._finish

    def seen(pool, resident, error):
        by_thread.setdefault(threading.current_thread().name, []).append(resident.job.key)
        return finish(pool, resident, error)

    monkeypatch.setattr(training._Pool, "_finish", seen)
    monkeypatch.setattr(training, "_tokens", lambda job: 2 if "short" in job.key else 1)
    found = trained(tiny_base(), [*short, *long], recipe(), Pooling(adapters=2))
    assert len(found) == 6
    assert all(any("long" in key for key in keys) for keys in by_thread.values())


def test_the_base_is_bare_and_free_while_shards_train():
    base, ids = tiny_base(), torch.tensor([[1, 2, 3]])
    with torch.inference_mode():  # The consumer's mode is not the shards'.
        before = base.model(input_ids=ids).logits
        for result in train(base, mixed_jobs(), recipe()):
            assert isinstance(result, TrainedAdapter)
            assert torch.equal(base.model(input_ids=ids).logits, before)
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


def test_steps_are_reported_in_the_consumer_s_thread():
    seen, threads = [], set()

    def step(*report):
        threads.add(threading.current_thread())
        seen.append(report)

    results = list(train(tiny_base(), mixed_jobs(), recipe(), on_step=step))
    assert threads == {threading.current_thread()}
    for result in results:
        assert isinstance(result, TrainedAdapter)
        assert tuple(s[3] for s in seen if s[0] == result.key) == result.losses


def test_a_failed_adapter_does_not_stop_its_shard_or_the_other(monkeypatch):
    jobs = mixed_jobs()
    fresh = training.fresh_weights

    def broken(sites, spec, seed):
        made = fresh(sites, spec, seed)
        if seed == jobs[0].seed:
            made.tensors[sites[0].a_key].fill_(float("nan"))
        return made

    monkeypatch.setattr(training, "fresh_weights", broken)
    found = trained(tiny_base(), jobs, recipe())
    assert isinstance(found.pop(jobs[0].key), FailedAdapter)
    assert len(found) == 3
    assert all(isinstance(one, TrainedAdapter) for one in found.values())


def test_an_error_in_one_shard_is_raised(monkeypatch):
    advance = training._Pool._advance

    def broken(pool, resident, *rest):
        if resident.job.key == "adapter 2":
            raise MemoryError("in a shard")
        return advance(pool, resident, *rest)

    monkeypatch.setattr(training._Pool, "_advance", broken)
    with pytest.raises(MemoryError, match="in a shard"):
        list(train(tiny_base(), mixed_jobs(), recipe(epochs=9)))


def test_a_consumer_that_stops_ends_the_threads():
    results = train(tiny_base(), mixed_jobs(), recipe())
    next(results)
    results.close()
