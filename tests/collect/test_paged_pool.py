"""The GPU's pool, run on a CPU: the tokens of the other pool, whoever shares or loses pages."""

import pytest
import torch

from steerproof.collect import generation
from steerproof.collect.generation import Limits, generate
from steerproof.collect.paged_cache import PAGE, attention_over_pages, prompt_places
from steerproof.collect.paged_pool import PagedPool
from steerproof.errors import MachineError
from tests.collect.subjects import SETTINGS, mixed_rows, subject

LONG = SETTINGS.model_copy(update={"max_new_tokens": 60})


@pytest.fixture
def paged(monkeypatch):
    """Every pool is one of pages; returns the pools that were made."""
    made = []

    def new_pool(subject, longest, rows, columns):
        made.append(PagedPool(subject, longest, rows=rows, pages=columns // PAGE))
        return made[-1]

    monkeypatch.setattr(generation, "new_pool", new_pool)
    return made


def texts(subject, rows, settings, **limits):
    found = list(generate(subject, rows, settings, limits=Limits(**limits)))
    assert len(found) == len(rows)
    return {(c.cell, c.question, c.sample): (c.token_ids, c.finish) for c in found}


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "gemma"])
@pytest.mark.parametrize("most", [7, 1024])
def test_pages_give_the_tokens_of_cohorts(architecture, most, request):
    made, rows = subject(architecture), mixed_rows(cells=8, questions=2, samples=3)
    expected = texts(made, rows, LONG)
    request.getfixturevalue("paged")
    assert texts(made, rows[::-1], LONG, max_rows=most) == expected
    assert max(len(tokens) for tokens, _ in expected.values()) == 60


def test_rows_that_lose_their_pages_begin_again_and_read_the_same(paged, monkeypatch):
    made, rows = subject("qwen2"), mixed_rows(cells=8, questions=2, samples=3)
    expected = texts(made, rows, LONG)
    lost = []
    make_room = PagedPool._make_room

    def counted(self, pages):
        make_room(self, pages)
        lost.extend(self.evicted)

    monkeypatch.setattr(PagedPool, "_make_room", counted)
    monkeypatch.setattr(PagedPool, "fits", lambda self, _rows: len(self.running) < 20)
    per_token = generation.bytes_per_token(made, 80)
    assert texts(made, rows, LONG, kv_bytes=60 * PAGE * per_token) == expected
    assert lost


def test_no_page_is_lost_or_used_twice(paged):
    made, rows = subject("qwen2"), mixed_rows(cells=8, questions=2, samples=3)
    per_token = generation.bytes_per_token(made, 80)
    for completion in generate(made, rows, LONG, limits=Limits(kv_bytes=90 * PAGE * per_token)):
        assert completion.token_ids is not None
        pool = paged[-1]
        held = [page for pages in pool._pages.values() for page in pages]
        assert sorted({*held, *pool._free}) == list(range(1, 91))
        assert not {*held} & {*pool._free}
        assert {p: held.count(p) for p in {*held}} == {p: int(pool._uses[p]) for p in {*held}}
    assert len(paged) == 1


def test_rows_of_a_prompt_share_the_pages_that_it_fills():
    tables = [[[3, 4], [3, 7]], [[9], [1]]]
    source, place = prompt_places([PAGE + 2, 1], tables, width=PAGE + 2)
    assert source.tolist() == [*range(PAGE + 2), PAGE, PAGE + 1, PAGE + 2, PAGE + 2]
    written = [3 * PAGE + i for i in range(PAGE)] + [4 * PAGE, 4 * PAGE + 1]
    assert place.tolist() == [*written, 7 * PAGE, 7 * PAGE + 1, 9 * PAGE, 1 * PAGE]


def test_pages_for_not_even_one_row_are_an_error(paged):
    made = subject("qwen2")
    per_token = generation.bytes_per_token(made, 80)
    with pytest.raises(MachineError, match="one prompt"):
        texts(made, mixed_rows(cells=2), LONG, kv_bytes=2 * PAGE * per_token)


def test_attention_over_pages_is_attention():
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(30, PAGE, 2, 8, generator=generator) for _ in range(2))
    table = torch.randperm(30, generator=generator)[:12].view(3, 4).int()
    query = torch.randn(3, 6, 8, generator=generator)
    lengths = torch.tensor([1, PAGE, 3 * PAGE + 5])
    got = attention_over_pages(query, keys, values, table, lengths, 0.3)
    for row, length in enumerate(lengths.tolist()):
        own = table[row].long()
        k, v = (
            x[own].flatten(0, 1)[:length].double().repeat_interleave(3, 1) for x in (keys, values)
        )
        weights = (torch.einsum("hd,thd->ht", query[row].double(), k) * 0.3).softmax(-1)
        assert torch.allclose(got[row].double(), torch.einsum("ht,thd->hd", weights, v), atol=1e-6)
