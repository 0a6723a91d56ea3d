"""Who runs next, without a model: tokens are drawn by a rule, and rows end as if alone."""

import itertools

import numpy as np
import pytest

from steerproof.engine.admission import Rules
from steerproof.engine.blocks import BLOCK_SIZE, NoBlockError
from steerproof.engine.rows import Row
from steerproof.engine.scheduler import Scheduler
from steerproof.engine.sequences import Sequence, sequence_groups
from steerproof.engine.steps import Decode, Prefill

LONGEST = 60


def rows(questions, samples, prompt=10):
    """Questions of one cell; a row is told by its seed."""
    return [
        Row(cell="c", question=q, sample=s, seed=100 * q + s, prompt_ids=(q,) * prompt)
        for q in range(questions)
        for s in range(samples)
    ]


def drawn(row, step):
    """A row's token: rows of a question agree for as many steps as their sample says."""
    return row.seed if step >= row.sample else 1000


def ends(row):
    """After how many tokens a row has ended."""
    return 5 + row.seed % 37


def scheduler(asked, blocks, room, ahead=False, slots=1):
    def slot(row):
        return row.question % slots

    def finish(sequence):
        return "eos" if len(sequence.tokens) >= ends(sequence.rows[0]) else None

    rules = Rules(
        room=room,
        most=room,
        longest=LONGEST,
        prompt_tokens=8192,
        finish=finish,
        adapter_slot=slot,
        ahead=ahead,
    )
    return Scheduler(sequence_groups(asked, slot), blocks, rules)


def completed(made, see=id):
    """What every row drew, by its seed."""
    found = {}
    while made.waiting or made.running:
        batch = made.next()
        see(batch)
        tokens = np.zeros(0, dtype=np.int64)
        if isinstance(batch, Decode):
            steps = [len(batch.sequences[owner].tokens) for owner in batch.owners]
            tokens = np.array([drawn(r, n) for r, n in zip(batch.rows, steps, strict=True)])
        for sequence in made.advance(batch, tokens):
            for row in sequence.rows:
                assert row.seed not in found
                found[row.seed] = sequence.tokens[: ends(row)]
    assert made.blocks.free + len(held(made)) == made.blocks.count
    return found


def completed_ahead(made):
    """The same, each step launched before the last one's tokens are read; and how many were."""
    found, launched, ahead = {}, None, 0
    while made.waiting or made.running:
        batch, tokens = launched or launch(made.next(), 0)
        further = made.ahead(batch)
        launched = None if further is None else launch(further, 1)
        ahead += launched is not None
        for sequence in made.advance(batch, tokens):
            found |= {row.seed: sequence.tokens[: ends(row)] for row in sequence.rows}
    assert made.blocks.free + len(held(made)) == made.blocks.count
    return found, ahead


def launch(batch, later):
    """A batch with what its rows draw, of which nothing is known when it is launched."""
    if isinstance(batch, Prefill):
        return batch, np.zeros(0, dtype=np.int64)
    for sequence, held in zip(batch.sequences, batch.held.tolist(), strict=True):
        if sequence.finish is None:
            assert held > (sequence.position + later) // BLOCK_SIZE
    steps = [len(batch.sequences[owner].tokens) + later for owner in batch.owners]
    return batch, np.array([drawn(r, n) for r, n in zip(batch.rows, steps, strict=True)])


def held(made):
    return {block for s in made.blocks.holders for block in made.blocks.table(s)}


def expected(asked):
    return {row.seed: [drawn(row, n) for n in range(ends(row))] for row in asked}


@pytest.mark.parametrize(("blocks", "room"), [(400, 1000), (400, 7), (24, 1000), (12, 9)])
def test_every_row_ends_once_with_its_own_tokens_however_little_room_there_is(blocks, room):
    asked = rows(questions=6, samples=4)
    found = completed(scheduler(asked, blocks, room))
    assert found == expected(asked)


@pytest.mark.parametrize(("blocks", "room"), [(400, 1000), (400, 7), (24, 1000), (12, 9)])
def test_rows_draw_the_same_when_steps_are_launched_before_the_last_is_read(blocks, room):
    asked = rows(questions=6, samples=4)
    found, ahead = completed_ahead(scheduler(asked, blocks, room, ahead=True))
    assert found == expected(asked)
    assert ahead > 10


def test_rows_of_a_group_part_after_their_prompt_where_steps_are_launched_ahead():
    asked = rows(questions=2, samples=3)
    made = scheduler(asked, 400, 1000, ahead=True)
    prefill = made.next()
    assert [len(sequence.rows) for sequence in prefill.sequences] == [3, 3]
    assert made.ahead(prefill) is None
    made.advance(prefill, np.zeros(0, dtype=np.int64))
    batch = made.next()
    assert [[row.seed for row in sequence.rows] for sequence in batch.sequences] == [
        [row.seed] for row in (*asked[::3], *asked[1:3], *asked[4:])
    ]
    # A prompt of ten: nine tokens are in a block that each of the others has a copy of.
    assert sorted(source for source, _ in batch.copies) == [1, 1, 2, 2]
    assert len({block for table in batch.tables.tolist() for block in table if block}) == 6
    assert made.ahead(batch) is batch
    made.advance(batch, np.array([7, 8, 9, 7, 8, 7]))
    assert made.ahead(batch) is batch  # unlike tokens make no new tables
    assert [sequence.tokens for sequence in made.running] == [[7], [8], [9], [7], [8], [7]]


def test_rows_for_which_there_is_no_block_when_they_part_wait_in_front(monkeypatch):
    monkeypatch.setattr("steerproof.engine.admission._fitting", lambda groups, *_: len(groups))
    asked = rows(questions=3, samples=3)
    made = scheduler(asked, 6, 1000, ahead=True)
    made.advance(made.next(), np.zeros(0, dtype=np.int64))
    assert len(made.running) == 6
    assert [row.seed for group in made.waiting for row in group.rows] == [102, 201, 202]


def test_a_step_is_launched_ahead_of_rows_that_wait_until_enough_have_ended():
    made = scheduler(rows(questions=20, samples=1), 400, 12, ahead=True)
    while isinstance(batch := made.next(), Prefill):
        made.advance(batch, np.zeros(0))
    assert len(made.running) == 12
    while made.done < 2:  # a sixth
        batch = made.next()
        assert made.ahead(batch) is batch
        made.advance(batch, np.full(len(batch.rows), 1000))
    assert made.waiting
    assert made.ahead(batch) is None
    assert isinstance(made.next(), Prefill)


@pytest.mark.parametrize(("blocks", "room"), [(400, 12), (48, 1000)])
def test_rows_are_let_in_many_at_once_whether_rows_or_blocks_bound_what_runs(blocks, room):
    asked, seen = rows(questions=60, samples=1), []
    assert completed(made := scheduler(asked, blocks, room), seen.append) == expected(asked)
    assert made.drawn == sum(map(ends, asked))  # none was preempted
    groups = itertools.groupby(seen, key=lambda batch: isinstance(batch, Prefill))
    # Twelve and more run at once, so two and more come at once: each by itself would be 48 times.
    assert sum(prefills for prefills, _ in groups) < 25


def test_a_prompt_is_prefilled_once_for_its_rows_before_they_are_decoded():
    seen = []

    def see(batch):
        seen.append((type(batch), [len(sequence.rows) for sequence in batch.sequences]))

    completed(scheduler(rows(questions=3, samples=5), 400, 1000), see)
    assert seen[0] == (Prefill, [5, 5, 5])
    assert all(kind is Decode for kind, _ in seen[1:])
    assert seen[1] == (Decode, [5, 5, 5])
    assert [len(counts) for _, counts in seen[2:5]] == [6, 9, 12]


def test_a_fork_is_told_to_copy_the_block_that_is_not_full():
    seen = []
    completed(scheduler(rows(questions=1, samples=2, prompt=4), 400, 1000), lambda b: seen.append(
        (list(b.copies), [list(table) for table in b.tables])
    ))  # fmt: skip
    copies = [copy for copied, _ in seen for copy in copied]
    (source, target), tables = copies[0], seen[[bool(c) for c, _ in seen].index(True)][1]
    assert len(copies) == 1
    assert sorted(table[0] for table in tables) == sorted((source, target))


def test_a_batch_is_ordered_by_adapter_and_kept_until_many_have_ended():
    asked = rows(questions=40, samples=1)
    seen = []
    completed(scheduler(asked, 400, 1000, slots=3), seen.append)
    decoded = [batch for batch in seen if isinstance(batch, Decode)]
    for batch in decoded:
        slots = [sequence.adapter for sequence in batch.sequences]
        assert slots == sorted(slots)
    kept = sum(a is b for a, b in itertools.pairwise(decoded))
    assert 0 < kept < len(decoded) - 1


def test_who_has_ended_leaves_a_batch_whose_last_tokens_are_not_read_yet():
    made = scheduler(rows(questions=6, samples=1), 400, 1000, ahead=True)
    made.advance(made.next(), np.zeros(0, dtype=np.int64))
    batch = made.next()
    assert made.ahead(batch) is batch
    for sequence in batch.sequences[1:3]:  # as if they had drawn enough
        sequence.tokens += [1000] * ends(sequence.rows[0])
    assert made.advance(batch, np.full(6, 1000)) == batch.sequences[1:3]
    further = made.ahead(batch)  # the step that is under way
    assert further is not batch
    assert further.sequences == [batch.sequences[place] for place in (0, 3, 4, 5)]
    assert further.after.tolist() == [0, 3, 4, 5]
    assert further.positions.tolist() == [
        position + 1 for position in batch.positions[[0, 3, 4, 5]]
    ]
    assert made.blocks.holders == further.sequences
    # One that is found to have ended now is still in it, and is counted there too.
    last = further.sequences[-1]
    last.tokens += [1000] * ends(last.rows[0])
    assert made.advance(batch, np.full(6, 1000)) == [last]
    assert further.ended == 1
    assert made.ahead(further) is not further
    assert len(made.next().sequences) == 3


def test_nothing_is_launched_ahead_of_the_end():
    made = scheduler(rows(questions=1, samples=1), 400, 1000, ahead=True)
    made.advance(made.next(), np.zeros(0, dtype=np.int64))
    batch = made.next()
    while made.running:
        assert made.ahead(batch) is batch
        made.advance(batch, np.full(1, 1000))
    assert made.ahead(batch) is None


def test_where_blocks_run_out_one_is_preempted_waits_in_front_and_begins_again(monkeypatch):
    monkeypatch.setattr("steerproof.engine.admission._fitting", lambda groups, *_: len(groups))
    asked = [
        Row(cell="c", question=q, sample=9, seed=36 + 37 * q, prompt_ids=(q,) * BLOCK_SIZE)
        for q in range(2)
    ]
    made, waited = scheduler(asked, 5, 1000), []

    def see(_batch):
        waited.append([group.rows[0].question for group in made.waiting])
        assert len(held(made)) + made.blocks.free == 5

    assert completed(made, see) == expected(asked)
    assert [0] in waited or [1] in waited
    assert made.drawn > sum(map(ends, asked))  # What was drawn before is drawn again.


def test_one_sequence_that_needs_more_than_all_blocks_is_an_error():
    made = scheduler(rows(questions=1, samples=1, prompt=BLOCK_SIZE + 1), 1, 1000)
    with pytest.raises(NoBlockError, match="one sequence needs more than all 1 blocks"):
        completed(made)
    tall = scheduler(rows(questions=1, samples=1, prompt=3 * BLOCK_SIZE), 1, 1000)
    with pytest.raises(NoBlockError, match="prompts need 3 blocks, 1 are free"):
        tall.next()


def test_rows_of_a_group_are_one_sequence_until_they_draw_unlike_tokens():
    group = Sequence(rows(questions=1, samples=4), 2, [9])
    others = group.fork([5, 6, 5, 7])
    assert [row.sample for row in group.rows] == [0, 2]
    assert [([r.sample for r in o.rows], o.tokens, o.adapter) for o in others] == [
        ([1], [9, 6], 2), ([3], [9, 7], 2),
    ]  # fmt: skip
