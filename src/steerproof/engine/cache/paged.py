"""The KV cache: keys and values in blocks, and the attention over them.

Sequences of unlike length are side by side, and one changes its place in the batch without a copy:
where its keys are is a matter of its block table (`blocks.py`). On a GPU the attention is a kernel
in Triton, on a CPU one in Numba (`gpu_kernels.py`, `cpu_kernels.py`); for other devices and number
types it is computed as it is defined, which is slower.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerproof.engine.blocks import BLOCK_SIZE, blocks_of
from steerproof.engine.cache.attention import PooledCache
from steerproof.model.split import Spread


@dataclass(slots=True, kw_only=True)
class _Places:
    """Where a forward pass writes and reads."""

    places: Int[Tensor, " n"]
    """Where each new key goes, counted in tokens through all blocks."""
    source: Int[Tensor, " n"] | None = None
    """Of prompts which of the flattened tokens are kept; None in a decode, where all are."""
    table: Int[Tensor, "rows columns"] | None = None
    lengths: Int[Tensor, " rows"] | None = None
    """Tokens of each row, the new one included; these two of a decode."""
    by_heads: dict[int, Tensor] = field(default_factory=dict, init=False)

    def of_heads(self, heads: int) -> Tensor:
        """Where the heads of the new tokens go, counted in tokens of one head."""
        if heads not in self.by_heads:
            block, place = self.places // BLOCK_SIZE, self.places % BLOCK_SIZE
            head = torch.arange(heads, device=block.device)
            every = (block[:, None] * heads + head) * BLOCK_SIZE + place[:, None]
            self.by_heads[heads] = every.flatten()
        return self.by_heads[heads]


class PagedCache(PooledCache):
    """All blocks of all layers."""

    def __init__(self, blocks: int, rows: int, longest: int, device: torch.device) -> None:
        """Reserve the tables; the blocks of a layer are reserved when its first keys are seen.

        Args:
            blocks: Blocks of each layer, `NULL_BLOCK` included.
            rows: Most rows of a batch.
            longest: Positions of the longest row.
            device: Where the model is.
        """
        super().__init__(longest)
        self.blocks = blocks
        # A column more than any row needs, never filled: who runs beyond its end writes to no
        # block of anybody's.
        columns = blocks_of(longest) + 1
        self.table = torch.zeros(rows, columns, dtype=torch.int32, device=device)
        self.positions = torch.zeros(rows, dtype=torch.int64, device=device)
        """Of the token that each row is fed next. Always this memory: a captured step reads it."""
        self._layers: list[tuple[Tensor, Tensor]] = []
        self.is_prefill = False
        self._new: tuple[Tensor, ...] = ()
        none = torch.zeros(0, dtype=torch.int64, device=device)
        self._pass = Spread(_Places(places=none, source=none), device)

    @contextmanager
    def prefilling(
        self,
        source: Int[Tensor, " n"],
        place: Int[Tensor, " n"],
        mask: Bool[Tensor, "sequences 1 width width"] | None,
    ) -> Iterator[None]:
        """While inside, a forward pass over prompts `[sequences, width]` fills blocks.

        Args:
            source: Which of the flattened tokens are kept; one may be kept several times.
            place: Where each goes, counted in tokens through all blocks.
            mask: Which tokens attend to which; None when each to all before it.
        """
        self._pass = Spread(_Places(places=place, source=source), place.device)
        self.is_prefill = True
        self.see(mask)
        try:
            yield
        finally:
            self.is_prefill = False
            self.see(None)

    def point(self, rows: int) -> None:
        """Work out, on the device, where the new keys of the first `rows` rows go."""
        positions, table = self.positions[:rows], self.table[:rows]
        column = (positions // BLOCK_SIZE).clamp(max=self.table.shape[1] - 1)
        block = table.gather(1, column[:, None])[:, 0]
        decoded = _Places(
            places=block * BLOCK_SIZE + positions % BLOCK_SIZE,
            table=table,
            lengths=(positions + 1).clamp(max=self._longest),
        )
        self._pass = Spread(decoded, table.device)

    def fed(self, rows: int) -> Int[Tensor, " rows"]:
        """Positions of the tokens that the first rows are fed next.

        A row that has ended counts on until others take its place. It stays at the last position
        that there is: a model may have no further one, or turn all rows otherwise for it.
        """
        return self.positions[:rows].clamp(max=self._longest - 1)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values to their blocks; in a step, once the layer attends."""
        if layer == len(self._layers):
            # Not set to zero: memory that no row uses is then never really taken.
            shape = (self.blocks, keys.shape[1], BLOCK_SIZE, keys.shape[3])
            self._layers.append((keys.new_empty(shape), values.new_empty(shape)))
        if not self.is_prefill:
            self._new = keys, values
        else:
            self._write(layer, *(x.transpose(1, 2).flatten(0, 1) for x in (keys, values)))

    def _write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the keys and values `[tokens, heads, width]` that are kept."""
        now = self._pass.on(keys.device)
        places = now.of_heads(keys.shape[1])
        for blocks, tokens in zip(self._layers[layer], (keys, values), strict=True):
            kept = tokens if now.source is None else tokens.index_select(0, now.source)
            blocks.view(-1, blocks.shape[3]).index_copy_(0, places, kept.flatten(0, 1))

    def copy_blocks(self, source: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> None:
        """Copy blocks, in every layer."""
        sources, targets = Spread(source, source.device), Spread(target, target.device)
        for layer in self._layers:
            for blocks in layer:
                there = sources.on(blocks.device), targets.on(blocks.device)
                blocks.index_copy_(0, there[1], blocks.index_select(0, there[0]))

    def attend_decode(
        self, layer: int, query: Float[Tensor, "batch heads width"], scale: float
    ) -> Float[Tensor, "batch heads width"]:
        """Write what was stored last, and attend with one query per row over the row's blocks."""
        keys, values = (x[:, :, 0] for x in self._new)
        now = self._pass.on(query.device)
        assert now.table is not None
        assert now.lengths is not None
        rows = (*self._layers[layer], now.table, now.lengths)
        if query.is_cuda and query.dtype != torch.float64:
            from steerproof.engine.cache.gpu_kernels import decode_attention
        elif query.device.type == "cpu" and query.dtype == torch.float32:
            from steerproof.engine.cache.cpu_kernels import decode_attention
        else:
            self._write(layer, keys, values)
            return attention_over_blocks(query, *rows, scale)
        return decode_attention(query, keys, values, *rows, scale)


def attention_over_blocks(
    query: Float[Tensor, "rows heads width"],
    keys: Float[Tensor, "all_blocks kv_heads block width"],
    values: Float[Tensor, "all_blocks kv_heads block width"],
    table: Int[Tensor, "rows blocks"],
    lengths: Int[Tensor, " rows"],
    scale: float,
) -> Float[Tensor, "rows heads width"]:
    """Softmax attention of one query per row over the row's own blocks, as it is defined.

    Args:
        query: Neighbouring heads share a head of keys.
        keys: Of all blocks.
        values: The same.
        table: Places of each row's blocks, in the order of its tokens.
        lengths: Tokens of each row, at least 1.
        scale: Factor on the products of queries and keys.
    """
    block = keys.shape[2]
    at = torch.arange(min(int(lengths.max()), table.shape[1] * block), device=query.device)
    places = table.long()[:, at // block] * block + at % block
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


def prompt_places(lengths: Sequence[int], tables: np.ndarray) -> Int[Tensor, " tokens"]:
    """Where the tokens of prompts go, prompt by prompt, as `PagedCache.prefilling` takes it.

    Args:
        lengths: Tokens of each prompt.
        tables: `[prompts, columns]`, its blocks.
    """
    prompt, token = np.nonzero(np.arange(max(lengths)) < np.array(lengths)[:, None])
    block = tables[prompt, token // BLOCK_SIZE].astype(np.int64)
    return torch.from_numpy(block * BLOCK_SIZE + token % BLOCK_SIZE)
