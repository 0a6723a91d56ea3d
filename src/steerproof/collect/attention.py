"""The pool's keys and values, and the attention over them.

Rows that share a prompt, an adapter and a push are a *family*: their prompt's keys and values are
computed and stored once, and each row keeps only its own tail. Families admitted together are a
*cohort*: they advance in step, so a new key is one slice written in place and the attention of a
cohort is a few batched matrix products, with no padding but that of unequal prompts.

Attention over the prompt and over the tail is one softmax over both, which is attention over their
concatenation: sharing is exact. Hugging Face's models call it through their attention interface.

Where a step is captured as a graph, the tail that attention looks at grows in strides, so that a
captured step stays valid for a while; columns not yet written are masked, which is exact too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steerproof.errors import ModelError

_NAME = "steerproof_pool"
_FIRST_COLUMNS = 32
STRIDE = _FIRST_COLUMNS
"""Columns by which attended tails grow where steps are captured."""


@dataclass(slots=True, kw_only=True)
class Cohort:
    """The keys and values of some families, each with `samples` slots for its rows."""

    lengths: list[int]
    """Prompt tokens of each family that are stored (all but the last)."""
    starts: list[list[int]]
    """First tail column of each slot, `[families][samples]`; above 0 only after a merge."""
    prompt_mask: Float[Tensor, "families 1 1 columns"]
    """0 where a prompt has a token, minus infinity where it is padding."""
    tail_mask: Float[Tensor, "families 1 samples 1 columns"] | None = None
    """The same for the tails; None when every tail starts at column 0 and the stride is 1."""
    prompts: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Per layer keys and values `[families, heads, columns, width]`."""
    tails: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Per layer keys and values `[families, heads, samples, columns, width]`."""
    columns: int = 0
    """Tail columns written so far."""
    window: int = 0
    """Tail columns that attention looks at: those written, rounded up to the stride."""
    newest: Int[Tensor, " 1"] | None = None
    """Index of the newest column, on the device."""
    source: Int[Tensor, " slots"] | None = None
    """For each slot, the batch row in it; any row where the slot is empty."""

    @property
    def families(self) -> int:
        """Number of families."""
        return len(self.lengths)

    @property
    def samples(self) -> int:
        """Slots per family."""
        return len(self.starts[0])

    @property
    def slots(self) -> int:
        """Rows that fit."""
        return self.families * self.samples

    @property
    def room(self) -> int:
        """Tail columns that are allocated."""
        return self.tails[0][0].shape[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What of a cohort goes on: families, and for each of them its slots in use."""

    cohort: Cohort
    families: list[int]
    samples: list[list[int]]


def new_cohort(lengths: Sequence[int], samples: int, like: Tensor) -> Cohort:
    """An empty cohort for prompts of some lengths, with the type and device of `like`."""
    return Cohort(
        lengths=list(lengths),
        starts=[[0] * samples for _ in lengths],
        prompt_mask=_mask([[0, n] for n in lengths], max(1, *lengths), like)[:, None, None],
    )


class PoolCache(Cache):
    """The cohorts as the cache of a Hugging Face model, and the attention over them.

    It is a `Cache` because models ask for one; everything it does is its own.
    """

    def __init__(self, stride: int = 1) -> None:
        """An empty cache.

        Args:
            stride: By how many columns the attended part of a tail grows at a time: 1 or `STRIDE`.
        """
        super().__init__(layers=[])
        self.stride = stride
        self.cohorts: list[Cohort] = []
        self.gather: Tensor | None = None
        """For each batch row, its slot, counted through all cohorts."""
        self.longest = 0
        """Positions of the longest row, for models with a window."""
        self._filling: Cohort | None = None
        self._layer = -1
        self._key: Tensor | None = None

    @contextmanager
    def filling(self, cohort: Cohort) -> Iterator[None]:
        """While inside, a forward pass over prompts `[families, columns]` fills a cohort."""
        self._filling = cohort
        try:
            yield
        finally:
            self._filling = None

    def advance(self) -> bool:
        """Make room for one more column in every tail; returns whether a shape has changed."""
        before = [(cohort.window, cohort.room) for cohort in self.cohorts]
        for cohort in self.cohorts:
            if cohort.columns == cohort.room:
                _grow(cohort)
            cohort.columns += 1
            cohort.window = -(-cohort.columns // self.stride) * self.stride
            if self.stride > 1:
                self._point_at_newest(cohort)
            if cohort.tail_mask is not None:
                cohort.tail_mask[..., cohort.columns - 1] = 0.0
        return before != [(cohort.window, cohort.room) for cohort in self.cohorts]

    def _point_at_newest(self, cohort: Cohort) -> None:
        if cohort.newest is None:
            cohort.newest = torch.zeros(1, dtype=torch.int64, device=cohort.prompt_mask.device)
        cohort.newest.fill_(cohort.columns - 1)
        if cohort.tail_mask is None:
            cohort.tail_mask = _tail_mask(cohort)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values `[batch, heads, seq, width]`; returns them as they are."""
        self._layer, self._key = layer_idx, key_states
        if self._filling is not None:
            _fill(self._filling, layer_idx, key_states, value_states)
            return key_states, value_states
        for cohort in self.cohorts:
            for tail, new in zip(cohort.tails[layer_idx], (key_states, value_states), strict=True):
                rows = _by_family(new[:, :, 0].index_select(0, _source(cohort)), cohort)
                if cohort.newest is None:
                    tail[:, :, :, cohort.columns - 1] = rows
                else:  # The column is read on the device, so a captured step writes the right one.
                    tail.index_copy_(3, cohort.newest, rows.unsqueeze(3))
        return key_states, value_states

    def get_seq_length(self, *_args: Any, **_kwargs: Any) -> int:
        """0: rows have lengths of their own, and say so through their position ids."""
        return 0

    def get_mask_sizes(self, query_length: int, *_args: Any, **_kwargs: Any) -> tuple[int, int]:
        """Never needed: this attention brings its own masks."""
        return query_length, 0

    def attend(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "batch heads seq width"],
        key: Tensor,
        value: Tensor,
        _attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention in the form that Hugging Face's models call.

        Returns:
            `[batch, seq, heads, width]`, and no weights.

        Raises:
            ModelError: the model wants a kind of attention that this one does not compute.
        """
        self._check(module, key, kwargs)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self._filling is not None:
            grouped = query.shape[1] != key.shape[1]
            out = F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
            )
            return out.transpose(1, 2), None
        query = query[:, :, 0] * scale
        outs = [_attend(cohort, self._layer, query) for cohort in self.cohorts]
        slots = outs[0] if len(outs) == 1 else torch.cat(outs)
        return slots.index_select(0, self._gathered())[:, None], None

    def _gathered(self) -> Tensor:
        if self.gather is None:
            raise ModelError("a step began before its rows were put into slots")
        return self.gather

    def _check(self, module: torch.nn.Module, key: Tensor, kwargs: dict[str, Any]) -> None:
        if key is not self._key:
            raise ModelError(
                f"{type(module).__name__} attends to keys that it did not store: layers that share"
                " keys and values cannot be pooled"
            )
        window = kwargs.get("sliding_window")
        if window is not None and window < self.longest:
            raise ModelError(
                f"{type(module).__name__} has a sliding window of {window} positions, but a row"
                f" may reach {self.longest}; ask for fewer new tokens"
            )
        for name in ("softcap", "s_aux", "position_bias"):
            if kwargs.get(name) is not None:
                raise ModelError(f"{type(module).__name__} uses {name}, which is not supported")


@contextmanager
def attending(model: PreTrainedModel, cache: PoolCache) -> Iterator[None]:
    """While inside, the model's attention is the cache's.

    Raises:
        ModelError: the model does not let its attention be chosen.
    """
    before = str(model.config._attn_implementation)
    name = f"{_NAME}_{id(cache):x}"  # Other threads have caches of their own.
    ALL_ATTENTION_FUNCTIONS[name] = cache.attend
    try:
        model.set_attn_implementation(name)
        if model.config._attn_implementation != name:
            raise ModelError(
                f"{type(model).__name__} does not use transformers' attention interface, so its"
                " rows cannot be pooled"
            )
        yield
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS[name]


def merged(parts: Sequence[Kept]) -> Cohort:
    """One cohort of what is kept of several; tails are aligned at their right end."""
    samples = max(len(slots) for part in parts for slots in part.samples)
    trims = [min(start for row in _starts(part, samples) for start in row) for part in parts]
    columns = max(p.cohort.columns - t for p, t in zip(parts, trims, strict=True))
    lengths = [part.cohort.lengths[f] for part in parts for f in part.families]
    shifts = [columns - p.cohort.columns for p in parts]
    new = new_cohort(lengths, samples, parts[0].cohort.prompts[0][0])
    new.columns = columns
    new.starts = [
        [start + shift for start in row]
        for part, shift in zip(parts, shifts, strict=True)
        for row in _starts(part, samples)
    ]
    for layer in range(len(parts[0].cohort.prompts)):
        _merge_layer(new, parts, layer, trims)
    if any(start for row in new.starts for start in row):
        new.tail_mask = _tail_mask(new)
    return new


def _merge_layer(new: Cohort, parts: Sequence[Kept], layer: int, trims: Sequence[int]) -> None:
    width = max(1, *new.lengths)
    prompts, tails = [], []
    for which in (0, 1):
        old = parts[0].cohort.prompts[layer][which]
        heads, size = old.shape[1], old.shape[3]
        prompt = old.new_zeros(new.families, heads, width, size)
        tail = old.new_zeros(new.families, heads, new.samples, _room(new.columns), size)
        first = 0
        for part, trim in zip(parts, trims, strict=True):
            last = first + len(part.families)
            f = torch.tensor(part.families, device=old.device)
            s = torch.tensor(_padded(part, new.samples), device=old.device)
            have = part.cohort.prompts[layer][which][f, :, :width]
            prompt[first:last, :, : have.shape[2]] = have
            rows = part.cohort.tails[layer][which][f[:, None], :, s, trim : part.cohort.columns]
            gap = new.columns - rows.shape[3]
            tail[first:last, :, :, gap : new.columns] = rows.transpose(1, 2)
            first = last
        prompts.append(prompt)
        tails.append(tail)
    new.prompts.append((prompts[0], prompts[1]))
    new.tails.append((tails[0], tails[1]))


def _attend(cohort: Cohort, layer: int, query: Tensor) -> Tensor:
    """Attention of every slot of a cohort, `[slots, heads, width]`, for queries by batch row."""
    (keys, values), (tail_keys, tail_values) = cohort.prompts[layer], cohort.tails[layer]
    families, heads, width, size = keys.shape
    samples, columns = cohort.samples, cohort.window
    group = query.shape[1] // heads
    rows = query.index_select(0, _source(cohort))
    q = rows.view(families, samples, heads, group, size).transpose(1, 2).contiguous()
    merged_q = q.view(families, heads, samples * group, size)
    prompt = torch.matmul(merged_q, keys.transpose(-1, -2)).add_(cohort.prompt_mask)
    tail = torch.matmul(q, tail_keys[..., :columns, :].transpose(-1, -2))
    if cohort.tail_mask is not None:
        tail = tail.add_(cohort.tail_mask[..., :columns])
    scores = torch.cat([prompt.view(families, heads, samples, group, width), tail], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
    on_prompt = weights[..., :width].reshape(families, heads, samples * group, width)
    out = torch.matmul(weights[..., width:], tail_values[..., :columns, :])
    out += torch.matmul(on_prompt, values).view(out.shape)
    return out.transpose(1, 2).reshape(families * samples, heads * group, size)


def _fill(cohort: Cohort, layer: int, key: Tensor, value: Tensor) -> None:
    if layer != len(cohort.prompts):
        raise ModelError(f"layer {layer} stored its keys out of order: the model cannot be pooled")
    families, heads, _, size = key.shape
    room = (families, heads, cohort.samples, _FIRST_COLUMNS, size)
    cohort.prompts.append((key.contiguous(), value.contiguous()))
    # Zeros, since a masked column that held a NaN would not vanish from the sum.
    cohort.tails.append((key.new_zeros(room), value.new_zeros(room)))


def _grow(cohort: Cohort) -> None:
    """Double the columns of the tails, a layer at a time."""
    room = 2 * cohort.columns
    for layer, pair in enumerate(cohort.tails):
        wider = []
        for old in pair:
            new = old.new_zeros(*old.shape[:3], room, old.shape[4])
            new[:, :, :, : old.shape[3]] = old
            wider.append(new)
        cohort.tails[layer] = (wider[0], wider[1])
    if cohort.tail_mask is not None:
        cohort.tail_mask = _tail_mask(cohort)


def _room(columns: int) -> int:
    """Columns to allocate for a tail of `columns` that goes on growing."""
    return max(_FIRST_COLUMNS, 2 ** (columns).bit_length())


def _mask(spans: Sequence[Sequence[int]], columns: int, like: Tensor) -> Tensor:
    """`[spans, columns]`: 0 from each span's first column to before its last, else -infinity."""
    place = torch.arange(columns)
    first, last = torch.tensor(spans).T[:, :, None]
    outside = (place < first) | (place >= last)
    mask = torch.zeros(outside.shape).masked_fill_(outside, -torch.inf)
    return mask.to(device=like.device, dtype=like.dtype)


def _tail_mask(cohort: Cohort) -> Tensor:
    """0 from where a tail starts to what is written so far, for all columns that are allocated."""
    spans = [[start, cohort.columns] for row in cohort.starts for start in row]
    mask = _mask(spans, cohort.room, cohort.tails[0][0])
    return mask.view(cohort.families, 1, cohort.samples, 1, -1)


def _padded(part: Kept, samples: int) -> list[list[int]]:
    """Slots of each kept family, filled up with its first one."""
    return [slots + [slots[0]] * (samples - len(slots)) for slots in part.samples]


def _starts(part: Kept, samples: int) -> list[list[int]]:
    return [
        [part.cohort.starts[f][s] for s in slots]
        for f, slots in zip(part.families, _padded(part, samples), strict=True)
    ]


def _source(cohort: Cohort) -> Tensor:
    if cohort.source is None:
        raise ModelError("a cohort was used before its slots were assigned to batch rows")
    return cohort.source


def _by_family(rows: Tensor, cohort: Cohort) -> Tensor:
    """`[slots, heads, width]` as `[families, heads, samples, width]`."""
    return rows.view(cohort.families, cohort.samples, *rows.shape[1:]).transpose(1, 2)
