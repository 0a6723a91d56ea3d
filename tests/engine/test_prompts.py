"""Packed prompts: every token sees its own prompt up to itself, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerproof.engine.generate import generate
from steerproof.engine.prompts import packed
from steerproof.engine.rows import Row
from steerproof.engine.runner import Runner
from steerproof.engine.sampling import row_seed
from tests.engine.subjects import PUSHED, SETTINGS, adapters, base_of

PAD = 99


# Two adapters and two pushes that differ: packing only asks which is which.
ADAPTERS, PUSHES = adapters("qwen2")[:2], PUSHED[:2]


def row(prompt, adapter=0, push=0):
    return Row(
        cell="c", question=0, sample=0, seed=0, prompt_ids=prompt,
        adapter=ADAPTERS[adapter], push=PUSHES[push],
    )  # fmt: skip


def pack(rows, longest):
    """All but the last token of each prompt, shared where adapter and push are the same."""
    keys = [(one.adapter, one.push) for one in rows]
    return packed(rows, keys, [one.prompt_ids[:-1] for one in rows], longest, PAD)


prompts = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)
kinds = st.integers(0, 1)
questions = st.lists(st.tuples(prompts, kinds, kinds), min_size=1)


@given(questions, st.sampled_from([0, 5, 100]))
def test_each_prompt_can_be_read_along_its_path(asked, longest):
    rows = sorted((row(*one) for one in asked), key=lambda one: ADAPTERS.index(one.adapter))
    found = pack(rows, longest)
    width = found.ids.shape[1]
    sees = (
        np.broadcast_to(np.tri(width, dtype=bool), (len(found.ids), width, width))
        if found.mask is None
        else found.mask[:, 0]
    )
    for one, path in zip(rows, found.paths, strict=True):
        ids, depths, real = (x.flatten()[path] for x in (found.ids, found.positions, found.real))
        assert tuple(ids) == one.prompt_ids[:-1]
        assert depths.tolist() == list(range(len(path)))
        assert real.all()
        for depth, place in enumerate(path):
            whose = found.rows[place // width]
            assert (whose.adapter, whose.push) == (one.adapter, one.push)
            seen = np.flatnonzero(sees[place // width, place % width]) + place // width * width
            assert seen.tolist() == path[: depth + 1]
    assert (found.ids[~found.real] == PAD).all()
    used = [ADAPTERS.index(one.adapter) for one in found.rows]
    assert used == sorted(used)


def test_what_prompts_begin_with_is_packed_once_for_each_adapter_and_push():
    rows = [row((1, 2, 3, 4, 9)), row((1, 2, 3, 5, 6, 9)), row((1, 2, 9)), row((1, 2, 9), push=1)]
    found = pack(rows, 100)
    assert found.ids.tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, *[PAD] * 4]]
    assert found.positions.tolist() == [[0, 1, 2, 3, 3, 4], [0, 1, 0, 0, 0, 0]]
    assert found.paths == [[0, 1, 2, 3], [0, 1, 2, 4, 5], [0, 1], [6, 7]]


def test_a_sequence_does_not_outgrow_its_limit_and_none_shares_without_one():
    rows = [row((1, 2, 3, i, 9)) for i in range(6)]
    assert pack(rows, 5).ids.shape == (3, 5)
    alone = pack(rows, 0)
    assert alone.ids.shape == (6, 4)
    assert alone.mask is None
    long = [row((*range(20), 9)), row((*range(19), 0, 9))]
    assert pack(long, 5).ids.shape == (2, 20)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_questions_of_a_cell_that_begin_alike_are_answered_as_if_alone(architecture, monkeypatch):
    base, widths = base_of(architecture), []
    prefill = Runner._prefill

    def noted(self, batch):
        model, forward = base.model, base.model.forward
        monkeypatch.setattr(
            model, "forward", lambda **k: widths.append(k["input_ids"].shape) or forward(**k)
        )
        prefill(self, batch)
        monkeypatch.setattr(model, "forward", forward)

    system = tuple(range(5, 30))
    rows = [
        Row(cell=f"c{c}", question=q, sample=s, seed=row_seed(0, f"c{c}", q, s),
            prompt_ids=(*system[: 25 - c], *range(60, 60 + q), 40 + q),
            adapter=adapters(architecture)[c], push=PUSHED[c])
        for c in range(4) for q in range(5) for s in range(2)
    ]  # fmt: skip
    monkeypatch.setattr(Runner, "_prefill", noted)
    found = {x.row: x.token_ids for x in generate(base, rows, SETTINGS)}
    assert widths == [(4, 29)]
    for one in rows[::3]:
        (alone,) = generate(base, [one], SETTINGS)
        assert found[one] == alone.token_ids
