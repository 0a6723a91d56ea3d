"""Keys and values in pages, and the attention over them: rows of unlike length side by side.

A page has room for a few tokens of one row; a row lists its pages in a table (Kwon et al. 2023,
arXiv 2309.06180). So a row takes what it has written and hardly more, rows with a common beginning
share the pages that it fills, and a row changes its place in the batch without a copy. On a GPU the
attention is a kernel in Triton, on a CPU one in Numba (`gpu_kernels.py`, `cpu_kernels.py`); for
other devices and number types it is computed as it is defined, which is slower.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerproof.engine.cache.attention import PooledCache

PAGE = 16
"""Tokens of a page: the last page of a row is half empty, and a table has an entry for each."""
TRASH = 0
"""The page that nobody reads: rows without a page of their own write to it."""


T = TypeVar("T", int, np.ndarray)


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
        self._source: Tensor | None = None
        self._new: tuple[Tensor, ...] = ()
        self._by_heads: dict[int, Tensor] = {}
        self._places = self._lengths = torch.zeros(0, dtype=torch.int64, device=device)

    @property
    def is_filling(self) -> bool:
        """Whether a forward pass is one over prompts."""
        return self._source is not None

    @contextmanager
    def filling(
        self,
        source: Int[Tensor, " n"],
        place: Int[Tensor, " n"],
        mask: Bool[Tensor, "sequences 1 width width"] | None,
    ) -> Iterator[None]:
        """While inside, a forward pass over prompts `[sequences, width]` fills pages.

        Args:
            source: Which of the flattened tokens are kept; one may be kept several times.
            place: Where each goes, counted in tokens through all pages.
            mask: Which tokens attend to which; None when each to all before it.
        """
        self._source, self._places, self._by_heads, self.mask = source, place, {}, mask
        try:
            yield
        finally:
            self._source = self.mask = None

    def point(self, rows: int) -> None:
        """Work out, on the device, where the new keys of the first `rows` rows go."""
        positions = self.positions[:rows]
        column = (positions // PAGE).clamp(max=self.table.shape[1] - 1)
        page = self.table[:rows].gather(1, column[:, None])[:, 0]
        self._places, self._by_heads = page * PAGE + positions % PAGE, {}
        self._lengths = (positions + 1).clamp(max=self._longest)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values to their pages; in a step, once the layer attends."""
        if layer == len(self._layers):
            # Not set to zero: memory that no row uses is then never really taken.
            shape = (self.pages, keys.shape[1], PAGE, keys.shape[3])
            self._layers.append((keys.new_empty(shape), values.new_empty(shape)))
        if self._source is None:
            self._new = keys, values
        else:
            self._write(layer, *(x.transpose(1, 2).flatten(0, 1) for x in (keys, values)))

    def _write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the keys and values `[tokens, heads, width]` that are kept."""
        places = self._head_places(keys.shape[1])
        for pages, tokens in zip(self._layers[layer], (keys, values), strict=True):
            kept = tokens if self._source is None else tokens.index_select(0, self._source)
            pages.view(-1, pages.shape[3]).index_copy_(0, places, kept.flatten(0, 1))

    def copy_pages(self, source: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> None:
        """Copy pages, in every layer."""
        for layer in self._layers:
            for pages in layer:
                pages.index_copy_(0, target, pages.index_select(0, source))

    def _head_places(self, heads: int) -> Tensor:
        """Where the heads of the new tokens go, counted in tokens of one head through all pages."""
        if heads not in self._by_heads:
            page, place = self._places // PAGE, self._places % PAGE
            head = torch.arange(heads, device=page.device)
            every = (page[:, None] * heads + head) * PAGE + place[:, None]
            self._by_heads[heads] = every.flatten()
        return self._by_heads[heads]

    def attend_step(
        self, layer: int, query: Float[Tensor, "batch heads width"], scale: float
    ) -> Float[Tensor, "batch heads width"]:
        """Write what was stored last, and attend with one query per row over the row's pages."""
        keys, values = (x[:, :, 0] for x in self._new)
        rows = (*self._layers[layer], self.table[: len(query)], self._lengths)
        if query.is_cuda and query.dtype != torch.float64:
            from steerproof.engine.cache.gpu_kernels import attention_step
        elif query.device.type == "cpu" and query.dtype == torch.float32:
            from steerproof.engine.cache.cpu_kernels import attention_step
        else:
            self._write(layer, keys, values)
            return attention_over_pages(query, *rows, scale)
        return attention_step(query, keys, values, *rows, scale)


def pages_of(tokens: T) -> T:
    """Pages that so many tokens take."""
    return -(-tokens // PAGE)


def attention_over_pages(
    query: Float[Tensor, "rows heads width"],
    keys: Float[Tensor, "all_pages kv_heads page width"],
    values: Float[Tensor, "all_pages kv_heads page width"],
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
    page = keys.shape[2]
    at = torch.arange(min(int(lengths.max()), table.shape[1] * page), device=query.device)
    places = table.long()[:, at // page] * page + at % page
    outside = at >= lengths[:, None]
    mask = torch.zeros(outside.shape, dtype=query.dtype, device=query.device)
    mask = mask.masked_fill_(outside, -torch.inf)[:, None, None]
    k, v = (x.transpose(1, 2).flatten(0, 1)[places].transpose(1, 2) for x in (keys, values))
    # What was never written may be NaN, which no mask and no weight of zero makes vanish.
    k, v = (x.masked_fill(outside[:, None, :, None], 0.0) for x in (k, v))
    out = F.scaled_dot_product_attention(
        query[:, :, None], k, v, attn_mask=mask, scale=scale, enable_gqa=True
    )
    return out[:, :, 0]


def prompt_places(
    lengths: Sequence[int], tables: Sequence[Sequence[int]]
) -> Int[Tensor, " tokens"]:
    """Where the tokens of prompts go, one prompt after another, as `PagedCache.filling` takes it.

    Args:
        lengths: Tokens of each prompt.
        tables: Its pages.
    """
    prompt, token = np.nonzero(np.arange(max(lengths)) < np.array(lengths)[:, None])
    pages = filled(tables, max(map(len, tables)))
    return torch.from_numpy(pages[prompt, token // PAGE] * PAGE + token % PAGE)


def filled(tables: Sequence[Sequence[int]], columns: int) -> np.ndarray:
    """Tables of unlike length as one, `[tables, columns]`, with `TRASH` where they have ended."""
    lengths = np.array([len(table) for table in tables])
    table = np.full((len(tables), columns), TRASH, dtype=np.int64)
    table[np.arange(columns) < lengths[:, None]] = np.fromiter(chain(*tables), dtype=np.int64)
    return table
