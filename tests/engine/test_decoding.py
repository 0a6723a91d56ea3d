"""Forking and preemption in the whole engine: the same tokens, whoever shares or loses blocks."""

import gc
import weakref
from dataclasses import replace
from typing import ClassVar

import pytest

from steerproof.engine import admission, batching
from steerproof.engine.batching import Batching
from steerproof.engine.blocks import BLOCK_SIZE
from steerproof.engine.generate import Limits, generate
from steerproof.engine.memory import bytes_per_token
from steerproof.engine.rows import Row
from steerproof.engine.runner import Runner
from steerproof.engine.sampling import row_seed
from steerproof.engine.scheduler import Scheduler
from steerproof.engine.steps import Decode, Prefill
from steerproof.errors import MachineError
from tests.engine.subjects import SETTINGS, base_of, mixed_rows
from tests.tiny import CONTEXT, FURTHER, tiny_base

LONG = SETTINGS.model_copy(update={"max_new_tokens": 60})


def texts(base, rows, settings, **limits):
    found = list(generate(base, rows, settings, limits=Limits(**limits)))
    assert len(found) == len(rows)
    return {(c.row.cell, c.row.question, c.row.sample): (c.token_ids, c.finish) for c in found}


@pytest.fixture
def batches(monkeypatch):
    """Rows and sequences of every decoded batch."""
    seen, run = [], Runner.launch

    def noted(self, batch):
        if isinstance(batch, Decode):
            seen.append((len(batch.rows), len(batch.sequences)))
        return run(self, batch)

    monkeypatch.setattr(Runner, "launch", noted)
    return seen


@pytest.fixture
def schedulers(monkeypatch):
    """The schedulers that are made."""
    made = []

    class Noted(Scheduler):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(batching, "Scheduler", Noted)
    return made


def test_rows_with_the_same_past_are_computed_once(batches):
    base, rows = base_of("qwen2"), mixed_rows(cells=2, questions=2, samples=6)
    cold = SETTINGS.model_copy(update={"temperature": 0.02})
    found = texts(base, rows, cold)
    for row in rows[::3]:
        assert texts(base, [row], cold).items() <= found.items()
    assert batches[0] == (24, 4)
    assert sum(sequences for _, sequences in batches[:10]) < 100


def test_every_row_goes_its_own_way_once_its_sequence_was_forked(batches):
    base, rows = base_of("qwen2"), mixed_rows(cells=2, questions=2, samples=12)
    hot = LONG.model_copy(update={"temperature": 3.0})
    found = texts(base, rows, hot)
    assert batches[0] == (48, 4)
    assert batches[9][0] == batches[9][1]
    assert len({tokens for tokens, _ in found.values()}) == 48
    # A beginning that ends within a block is copied; one that fills its blocks is shared.
    for row in rows[::8]:
        assert texts(base, [row], hot).items() <= found.items()


def test_rows_that_are_preempted_begin_again_and_read_the_same(monkeypatch):
    base, rows = base_of("qwen2"), mixed_rows(cells=8, questions=2, samples=3)
    expected = texts(base, rows, LONG)
    lost = []
    wait_again = Scheduler._wait_again

    def counted(self, rows):
        lost.extend(rows)
        wait_again(self, rows)

    monkeypatch.setattr(Scheduler, "_wait_again", counted)
    # As if rows needed no blocks: too many are let in, so that blocks run out.
    fitting = admission._fitting

    def careless(groups, reach, longest, blocks, rows):
        return fitting(groups, 0, 0, 0, rows)

    monkeypatch.setattr(admission, "_fitting", careless)
    per_token = sum(bytes_per_token(base, 80).values())
    assert texts(base, rows, LONG, kv_bytes=60 * BLOCK_SIZE * per_token) == expected
    assert lost


class Ahead(Batching):
    """Launches steps before the last one is read, as on a GPU; and which were."""

    launched: ClassVar[list[Decode | None]] = []

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings | {"ahead": True})

    def step(self):
        ended = super().step()
        batch = self._launched and self._launched[0]
        assert not isinstance(batch, Prefill)
        self.launched.append(batch)
        return ended


@pytest.fixture
def ahead(monkeypatch):
    """Let a CPU launch steps ahead."""
    monkeypatch.setattr("steerproof.engine.generate.Batching", Ahead)
    monkeypatch.setattr(Ahead, "launched", [])


def test_steps_that_are_launched_before_the_last_one_is_read_draw_the_same(request):
    base, rows = base_of("qwen2"), mixed_rows(cells=4, questions=3, samples=4)
    expected = texts(base, rows, LONG)
    request.getfixturevalue("ahead")
    assert texts(base, rows, LONG) == expected
    assert texts(base, rows, LONG, max_rows=9) == expected
    launched = [batch for batch in Ahead.launched if batch is not None]
    assert len(launched) > len(Ahead.launched) / 3
    # Often without those that had ended, though what the others are fed is not read.
    assert len({id(batch) for batch in launched if batch.after is not None}) > 10


SHARED_ROTATIONS = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 128,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
}


@pytest.mark.parametrize(("architecture", "longest"), [("gpt2", CONTEXT), ("phi3", 128)])
@pytest.mark.parametrize("most", [16, 24])
def test_who_has_ended_at_the_last_position_there_is_goes_no_further(
    architecture, longest, most, monkeypatch, ahead
):
    """A model has no embedding beyond it, or turns all rows by other angles if one is there."""
    further = {"original_max_position_embeddings": 128, "rope_parameters": SHARED_ROTATIONS}
    monkeypatch.setitem(FURTHER, "phi3", further)
    base = replace(tiny_base(architecture), eos_ids=frozenset(range(0, 260, 40)))
    settings = SETTINGS.model_copy(update={"max_new_tokens": 40, "temperature": 1.5})
    rows = [
        Row(cell="c", question=q, sample=0, seed=row_seed(0, "c", q, 0),
            prompt_ids=tuple((7 * q + i) % 256 for i in range(longest - 40)))
        for q in range(60)
    ]  # fmt: skip
    found = texts(base, rows, settings, max_rows=most)
    assert {finish for _, finish in found.values()} == {"eos", "length"}
    assert found == texts(base, rows, settings, max_rows=1)


def test_no_block_is_lost_or_used_twice(schedulers):
    base, rows = base_of("qwen2"), mixed_rows(cells=8, questions=2, samples=3)
    limits = Limits(kv_bytes=90 * BLOCK_SIZE * sum(bytes_per_token(base, 80).values()))
    for completion in generate(base, rows, LONG, limits=limits):
        assert completion.token_ids is not None
        blocks = schedulers[-1].blocks
        held = [block for sequence in blocks.holders for block in blocks.table(sequence)]
        assert sorted({*held, *blocks._free}) == list(range(1, 91))
        assert not {*held} & {*blocks._free}
        assert {b: held.count(b) for b in {*held}} == {b: blocks._uses[b] for b in {*held}}
    assert len(schedulers) == 1


def test_blocks_for_not_even_one_row_are_an_error():
    base = base_of("qwen2")
    per_token = sum(bytes_per_token(base, 80).values())
    with pytest.raises(MachineError, match="one prompt"):
        texts(base, mixed_rows(cells=2), LONG, kv_bytes=2 * BLOCK_SIZE * per_token)


def test_the_blocks_are_free_as_soon_as_the_rows_are_done(monkeypatch):
    """Not only when somebody looks for circles: a GPU's memory is wanted before that."""
    made = []

    class Noted(Runner):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    monkeypatch.setattr(batching, "Runner", Noted)
    gc.disable()
    try:
        texts(base_of("qwen2"), mixed_rows(), SETTINGS)
        assert made
        assert all(runner() is None for runner in made)
    finally:
        gc.enable()
