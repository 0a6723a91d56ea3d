"""Training on packed rows: what it gives is what each adapter gives alone."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerproof.engine import packed_attention
from steerproof.engine.batches import Example, StepRows
from steerproof.engine.lora.tiles import TILE
from steerproof.engine.packed_attention import PackedAttention, packable
from steerproof.engine.packing import packed_batches
from steerproof.engine.train import Pooling, TrainedAdapter
from tests.engine.definition import pack_on_a_cpu, rows_by_definition
from tests.engine.test_training import ROUNDING, difference, mixed_jobs, recipe, trained
from tests.tiny import tiny_base

PAD = 999


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "llama"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_packed_rows_train_every_adapter_as_it_is_trained_alone(architecture, dropout, monkeypatch):
    base = tiny_base(architecture, dtype=torch.float64)
    how = recipe(dropout=dropout)
    alone = {
        job.key: trained(base, [job], how, Pooling(tokens=30))[job.key] for job in mixed_jobs()
    }
    pack_on_a_cpu(monkeypatch)
    for pooling in (Pooling(), Pooling(adapters=2, tokens=TILE)):
        packed = trained(base, mixed_jobs(), how, pooling)
        for key, mine in packed.items():
            other = alone[key]
            assert isinstance(mine, TrainedAdapter)
            assert isinstance(other, TrainedAdapter)
            assert mine.losses == pytest.approx(other.losses, abs=ROUNDING)
            assert mine.gradient_norms == pytest.approx(other.gradient_norms, abs=ROUNDING)
            assert difference(mine.weights, other.weights) < ROUNDING
            for a, b in zip(mine.pushes, other.pushes, strict=True):
                assert a.measured.positions == b.measured.positions
                assert a.measured.ratio == pytest.approx(b.measured.ratio, rel=1e-6)


def rows_of(slot, lengths):
    examples = tuple(
        Example(prompt_ids=tuple(range(n - n // 2)), completion_ids=tuple(range(n // 2)))
        for n in lengths
    )
    count = len(lengths)
    return StepRows(
        slot=slot, rows=tuple(range(count)), examples=examples, push_slots=(0,) * count,
        dropout_keys=tuple(1000 * slot + i for i in range(count)),
    )  # fmt: skip


@given(
    st.lists(st.lists(st.integers(2, 200), min_size=1, max_size=9), min_size=1, max_size=5),
    st.integers(64, 2000),
    st.booleans(),
)
def test_every_row_goes_once_into_tiles_of_its_adapter(lengths, tokens, rounded):
    steps = [rows_of(slot, row) for slot, row in enumerate(lengths, start=1)]
    seen, weights = set(), dict.fromkeys(range(1, len(steps) + 1), 0.0)
    for line in packed_batches(steps, tokens, PAD, longest=400, rounded=rounded):
        ends = line.ends.tolist()
        total = line.ids.shape[1]
        assert total == ends[-1] == len(line.tiles) * TILE
        for start, stop in pairwise(ends):
            assert stop - start <= line.longest
            assert line.positions[0, start:stop].tolist() == list(range(stop - start))
            if start < stop and line.mask[0, start]:
                (key,) = set(line.dropout_keys[0, start:stop].tolist())
                slots = line.tiles[start // TILE : (stop - 1) // TILE + 1].tolist()
                assert set(slots) == {key // 1000}
                assert bool(line.mask[0, start:stop].all())
                seen.add((key, stop - start))
        for at, target, weight, owner in zip(
            *(x.tolist() for x in (line.predicting, line.targets, line.weights, line.owners)),
            strict=True,
        ):
            if weight:
                assert int(line.tiles[at // TILE]) == owner
                assert int(line.ids[0, at + 1]) == target
                weights[owner] += weight
    expected = {(1000 * s + i, n) for s, row in enumerate(lengths, 1) for i, n in enumerate(row)}
    assert seen == expected
    assert all(math.isclose(total, 1.0, rel_tol=1e-9) for total in weights.values())


def test_steps_of_like_length_make_one_shape():
    draw = torch.Generator().manual_seed(0)
    shapes = set()
    for _ in range(20):
        steps = [
            rows_of(slot, torch.randint(170, 390, (16,), generator=draw).tolist())
            for slot in range(1, 17)
        ]
        for line in packed_batches(steps, 16384, PAD, longest=400, rounded=True):
            shapes.add((line.ids.shape[1], len(line.targets), line.longest, len(line.ends)))
            assert line.mask.double().mean() > 0.9
    assert len(shapes) <= 4


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox", "gemma"])
def test_rows_are_packed_only_where_none_sees_another(architecture, monkeypatch):
    pack_on_a_cpu(monkeypatch)
    base = tiny_base(architecture)
    assert packable(base)

    def all_before(query, key, value, ends, longest, scale):
        return rows_by_definition(query, key, value, ends[[0, -1]], longest, scale)

    monkeypatch.setattr(packed_attention, "_within_rows", all_before)
    assert not packable(base)


def test_a_model_with_a_window_is_not_packed(monkeypatch):
    pack_on_a_cpu(monkeypatch)
    base = tiny_base("mistral")
    for block in base.blocks:
        block.self_attn.config.sliding_window = 4
    assert not packable(base)


def test_the_librarys_kernel_takes_lines_with_fewer_heads_of_keys():
    """Shapes alone, of heads that ours does not take: what it computes is seen on a GPU."""
    how = PackedAttention()
    how.route(torch.empty(3, dtype=torch.int32, device="meta"), 10)
    query, key = (torch.empty(1, n, 10, 24, dtype=torch.bfloat16, device="meta") for n in (4, 2))
    out, _ = how.attend(torch.nn.Module(), query, key, key, None)
    assert out.shape == (1, 10, 4, 24)
