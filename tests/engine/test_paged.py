"""The KV cache in blocks: what is written where, and attention as it is defined."""

import numpy as np
import pytest
import torch

from steerproof.engine.blocks import BLOCK_SIZE
from steerproof.engine.cache import cpu_kernels
from steerproof.engine.cache.paged import attention_over_blocks, prompt_places


def test_a_prompt_is_written_once_to_pages_of_its_own():
    place = prompt_places([BLOCK_SIZE + 2, 0, 1], np.array([[3, 7], [0, 0], [9, 0]]))
    assert place.tolist() == [3 * BLOCK_SIZE + i for i in range(BLOCK_SIZE)] + [
        7 * BLOCK_SIZE,
        7 * BLOCK_SIZE + 1,
        9 * BLOCK_SIZE,
    ]


def compiled(query, keys, values, table, lengths, scale):
    """The newest key and value of each row are taken out, and given to be written."""
    block = table.long().gather(1, ((lengths - 1) // BLOCK_SIZE)[:, None])[:, 0]
    at = (block, slice(None), (lengths - 1) % BLOCK_SIZE)
    new = [blocks[at].clone() for blocks in (keys, values)]
    keys[at] = values[at] = torch.nan
    got = cpu_kernels.decode_attention(query, *new, keys, values, table, lengths, scale)
    assert torch.equal(keys[at], new[0])
    assert torch.equal(values[at], new[1])
    return got


@pytest.mark.parametrize(
    ("attention", "dtype"),
    [
        (compiled, torch.float32),
        (attention_over_blocks, torch.float32),
        (attention_over_blocks, torch.float64),
    ],
)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(6, 2, 8), (4, 4, 5), (14, 2, 64)])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_attention_over_blocks_is_attention(attention, dtype, heads, kv_heads, width, spread):
    generator = torch.Generator().manual_seed(0)
    shape = (30, kv_heads, BLOCK_SIZE, width)
    keys, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    table = torch.randperm(30, generator=generator)[:20].view(5, 4).int()
    query = spread * torch.randn(5, heads, width, generator=generator).to(dtype)
    lengths = torch.tensor([1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE + 5, 3 * BLOCK_SIZE + 6])
    for row, length in enumerate(lengths.tolist()):  # What no token was written to is never seen.
        last = int(table[row, length // BLOCK_SIZE])
        keys[last, :, length % BLOCK_SIZE :] = values[last, :, length % BLOCK_SIZE :] = torch.nan
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
