"""Pages: the same tokens, whoever shares or loses them, and attention as it is defined."""

import gc
import weakref

import pytest
import torch

from steerproof.engine import generate as generation
from steerproof.engine.cache import cpu_kernels
from steerproof.engine.cache.pages import PAGE, attention_over_pages, prompt_places
from steerproof.engine.generate import Limits, generate
from steerproof.engine.memory import bytes_per_token
from steerproof.engine.pool import RowPool
from steerproof.errors import MachineError
from tests.engine.subjects import SETTINGS, base_of, mixed_rows

LONG = SETTINGS.model_copy(update={"max_new_tokens": 60})


@pytest.fixture
def pools(monkeypatch):
    """The pools that are made."""
    made, new_pool = [], generation.new_pool

    def noted(*args):
        made.append(new_pool(*args))
        return made[-1]

    monkeypatch.setattr(generation, "new_pool", noted)
    return made


def texts(base, rows, settings, **limits):
    found = list(generate(base, rows, settings, limits=Limits(**limits)))
    assert len(found) == len(rows)
    return {(c.row.cell, c.row.question, c.row.sample): (c.token_ids, c.finish) for c in found}


@pytest.fixture
def batches(monkeypatch):
    """Rows and branches of every step."""
    seen, step = [], RowPool.step

    def noted(self, choose):
        def counted(logits, batch):
            assert len(logits) == len(batch.branches)
            seen.append((len(batch.rows), len(batch.branches)))
            return choose(logits, batch)

        return step(self, counted)

    monkeypatch.setattr(RowPool, "step", noted)
    return seen


def test_rows_with_the_same_past_are_computed_once(batches):
    made, rows = base_of("qwen2"), mixed_rows(cells=2, questions=2, samples=6)
    cold = SETTINGS.model_copy(update={"temperature": 0.02})
    found = texts(made, rows, cold)
    for row in rows[::3]:
        assert texts(made, [row], cold).items() <= found.items()
    assert batches[0] == (24, 4)
    assert sum(branches for _, branches in batches[:10]) < 100


def test_every_row_goes_its_own_way_once_it_has_parted(batches):
    made, rows = base_of("qwen2"), mixed_rows(cells=2, questions=2, samples=12)
    hot = LONG.model_copy(update={"temperature": 3.0})
    found = texts(made, rows, hot)
    assert batches[0] == (48, 4)
    assert batches[9][0] == batches[9][1]
    assert len({tokens for tokens, _ in found.values()}) == 48
    # A beginning that ends within a page is copied; one that fills its pages is shared.
    for row in rows[::8]:
        assert texts(made, [row], hot).items() <= found.items()


def test_rows_that_lose_their_pages_begin_again_and_read_the_same(monkeypatch):
    made, rows = base_of("qwen2"), mixed_rows(cells=8, questions=2, samples=3)
    expected = texts(made, rows, LONG)
    lost = []
    make_room = RowPool._make_room

    def counted(self):
        make_room(self)
        lost.extend(self.evicted)

    monkeypatch.setattr(RowPool, "_make_room", counted)
    monkeypatch.setattr(RowPool, "fitting", lambda self, _rows: len(self._free) > 8)
    per_token = bytes_per_token(made, 80)
    assert texts(made, rows, LONG, kv_bytes=60 * PAGE * per_token) == expected
    assert lost


def test_no_page_is_lost_or_used_twice(pools):
    made, rows = base_of("qwen2"), mixed_rows(cells=8, questions=2, samples=3)
    per_token = bytes_per_token(made, 80)
    for completion in generate(made, rows, LONG, limits=Limits(kv_bytes=90 * PAGE * per_token)):
        assert completion.token_ids is not None
        pool = pools[-1]
        held = [page for pages in pool._pages.values() for page in pages]
        assert sorted({*held, *pool._free}) == list(range(1, 91))
        assert not {*held} & {*pool._free}
        assert {p: held.count(p) for p in {*held}} == {p: int(pool._uses[p]) for p in {*held}}
    assert len(pools) == 1


def test_a_prompt_is_written_once_to_pages_of_its_own():
    place = prompt_places([PAGE + 2, 0, 1], [[3, 7], [], [9]])
    assert place.tolist() == [3 * PAGE + i for i in range(PAGE)] + [
        7 * PAGE,
        7 * PAGE + 1,
        9 * PAGE,
    ]


def test_pages_for_not_even_one_row_are_an_error():
    made = base_of("qwen2")
    per_token = bytes_per_token(made, 80)
    with pytest.raises(MachineError, match="one prompt"):
        texts(made, mixed_rows(cells=2), LONG, kv_bytes=2 * PAGE * per_token)


def compiled(query, keys, values, table, lengths, scale):
    """The newest key and value of each row are taken out, and given to be written."""
    page = table.long().gather(1, ((lengths - 1) // PAGE)[:, None])[:, 0]
    at = (page, slice(None), (lengths - 1) % PAGE)
    new = [pages[at].clone() for pages in (keys, values)]
    keys[at] = values[at] = torch.nan
    got = cpu_kernels.attention_step(query, *new, keys, values, table, lengths, scale)
    assert torch.equal(keys[at], new[0])
    assert torch.equal(values[at], new[1])
    return got


@pytest.mark.parametrize(
    ("attention", "dtype"),
    [
        (compiled, torch.float32),
        (attention_over_pages, torch.float32),
        (attention_over_pages, torch.float64),
    ],
)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(6, 2, 8), (4, 4, 5), (14, 2, 64)])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_attention_over_pages_is_attention(attention, dtype, heads, kv_heads, width, spread):
    generator = torch.Generator().manual_seed(0)
    shape = (30, kv_heads, PAGE, width)
    keys, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    table = torch.randperm(30, generator=generator)[:20].view(5, 4).int()
    query = spread * torch.randn(5, heads, width, generator=generator).to(dtype)
    lengths = torch.tensor([1, PAGE, PAGE + 1, 3 * PAGE + 5, 3 * PAGE + 6])
    for row, length in enumerate(lengths.tolist()):  # What no token was written to is never seen.
        last = int(table[row, length // PAGE])
        keys[last, :, length % PAGE :] = values[last, :, length % PAGE :] = torch.nan
    got = attention(query, keys, values, table, lengths, 0.3)
    for row, length in enumerate(lengths.tolist()):
        k, v = (
            x[table[row].long()].transpose(1, 2).flatten(0, 1)[:length].double()
            for x in (keys, values)
        )
        k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
        weights = (torch.einsum("hd,thd->ht", query[row].double(), k) * 0.3).softmax(-1)
        expected = torch.einsum("ht,thd->hd", weights, v)
        torch.testing.assert_close(got[row].double(), expected, atol=2e-6 * spread, rtol=1e-5)


def test_the_pages_are_free_as_soon_as_the_rows_are_done(pools):
    """Not only when somebody looks for circles: a GPU's memory is wanted before that."""
    gc.disable()
    try:
        texts(base_of("qwen2"), mixed_rows(), SETTINGS)
        left = [weakref.ref(pool) for pool in pools]
        pools.clear()
        assert left
        assert all(pool() is None for pool in left)
    finally:
        gc.enable()
