"""Keys and values in pages, and the attention over them: how a GPU holds rows of unlike length.

A page has room for a few tokens of one row; a row lists its pages in a table (Kwon et al. 2023,
arXiv 2309.06180). So a row takes what it has written and hardly more, rows of one prompt share the
pages that the prompt fills, and a row changes its place in the batch without a copy. On a GPU the
attention is a kernel (`kernels.py`); elsewhere it is computed as it is defined, which is slower.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.collect.cache import PooledCache

PAGE = 16
"""Tokens of a page: the last page of a row is half empty, and a table has an entry for each."""
TRASH = 0
"""The page that nobody reads: rows without a page of their own write to it."""


class PagedCache(PooledCache):
    """All pages of all layers."""

    def __init__(self, pages: int, rows: int, longest: int, device: torch.device) -> None:
        """Reserve the tables; the pages of a layer are reserved when its first keys are seen.

        Args:
            pages: Pages of each layer, `TRASH` included.
            rows: Most rows of a batch.
            longest: Positions of the longest row.
            device: Where the model is.
        """
        super().__init__(longest)
        self.pages = pages
        # A column more than any row needs, never filled: who runs beyond its end writes to TRASH.
        columns = pages_of(longest) + 1
        self.table = torch.zeros(rows, columns, dtype=torch.int32, device=device)
        self.positions = torch.zeros(rows, dtype=torch.int64, device=device)
        """Of the token that each row is fed next. Always this memory: a captured step reads it."""
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._filling: tuple[Tensor, Tensor] | None = None
        self._places = self._lengths = torch.zeros(0, dtype=torch.int64, device=device)

    @property
    def is_filling(self) -> bool:
        """Whether a forward pass is one over prompts."""
        return self._filling is not None

    @contextmanager
    def filling(self, source: Int[Tensor, " n"], place: Int[Tensor, " n"]) -> Iterator[None]:
        """While inside, a forward pass over prompts `[families, columns]` fills pages.

        Args:
            source: Which of the flattened prompt tokens are kept; one may be kept several times.
            place: Where each goes, counted in tokens through all pages.
        """
        self._filling = (source, place)
        try:
            yield
        finally:
            self._filling = None

    def point(self, rows: int) -> None:
        """Work out, on the device, where the new keys of the first `rows` rows go."""
        positions = self.positions[:rows]
        column = (positions // PAGE).clamp(max=self.table.shape[1] - 1)
        page = self.table[:rows].gather(1, column[:, None])[:, 0]
        self._places = page * PAGE + positions % PAGE
        self._lengths = (positions + 1).clamp(max=self._longest)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values to their pages."""
        if layer == len(self._layers):
            # Zeros, since a masked token that held a NaN would not vanish from a sum.
            shape = (self.pages, PAGE, keys.shape[1], keys.shape[3])
            self._layers.append((keys.new_zeros(shape), values.new_zeros(shape)))
        for pages, new in zip(self._layers[layer], (keys, values), strict=True):
            tokens = new.transpose(1, 2).flatten(0, 1)
            if self._filling is None:
                pages.view(-1, *tokens.shape[1:]).index_copy_(0, self._places, tokens)
            else:
                source, place = self._filling
                chosen = tokens.index_select(0, source)
                pages.view(-1, *tokens.shape[1:]).index_copy_(0, place, chosen)

    def attend_step(
        self, layer: int, query: Float[Tensor, "batch heads width"], scale: float
    ) -> Float[Tensor, "batch heads width"]:
        """Attention of one query per row over the row's pages."""
        attention = attention_over_pages
        if query.is_cuda:
            from steerproof.collect.kernels import attention
        table = self.table[: len(query)]
        return attention(query, *self._layers[layer], table, self._lengths, scale)


def pages_of(tokens: int) -> int:
    """Pages that so many tokens take."""
    return -(-tokens // PAGE)


def attention_over_pages(
    query: Float[Tensor, "rows heads width"],
    keys: Float[Tensor, "all_pages page kv_heads width"],
    values: Float[Tensor, "all_pages page kv_heads width"],
    table: Int[Tensor, "rows pages"],
    lengths: Int[Tensor, " rows"],
    scale: float,
) -> Float[Tensor, "rows heads width"]:
    """Softmax attention of one query per row over the row's own pages, as it is defined.

    Args:
        query: Neighbouring heads share a head of keys.
        keys: Of all pages.
        values: The same.
        table: Places of each row's pages, in the order of its tokens.
        lengths: Tokens of each row, at least 1.
        scale: Factor on the products of queries and keys.
    """
    page = keys.shape[1]
    at = torch.arange(min(int(lengths.max()), table.shape[1] * page), device=query.device)
    places = table.long()[:, at // page] * page + at % page
    outside = at >= lengths[:, None]
    mask = torch.zeros(outside.shape, dtype=query.dtype, device=query.device)
    mask = mask.masked_fill_(outside, -torch.inf)[:, None, None]
    k, v = (x.flatten(0, 1)[places].transpose(1, 2) for x in (keys, values))
    out = F.scaled_dot_product_attention(
        query[:, :, None], k, v, attn_mask=mask, scale=scale, enable_gqa=True
    )
    return out[:, :, 0]


def prompt_places(
    lengths: Sequence[int], tables: Sequence[Sequence[Sequence[int]]], width: int
) -> tuple[Tensor, Tensor]:
    """Which prompt tokens are stored where.

    The pages that a prompt fills are the same in all of its rows and are written once; its last
    tokens are written to a page of each row's own.

    Args:
        lengths: Tokens of each family's prompt.
        tables: Of each family, the pages of each of its rows.
        width: Tokens of a padded prompt.

    Returns:
        Source and place, as `PagedCache.filling` takes them.
    """
    source: list[int] = []
    place: list[int] = []
    for family, (length, rows) in enumerate(zip(lengths, tables, strict=True)):
        shared = length // PAGE * PAGE
        for number, pages in enumerate(rows):
            for token in range(shared if number else 0, length):
                source.append(family * width + token)
                place.append(pages[token // PAGE] * PAGE + token % PAGE)
    return torch.tensor(source, dtype=torch.int64), torch.tensor(place, dtype=torch.int64)
