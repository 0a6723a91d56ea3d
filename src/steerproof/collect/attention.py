"""The pool's keys and values, and the attention over them.

Rows that share a prompt, an adapter and a push are a *family*: their prompt's keys and values are
computed and stored once, and each row keeps only its own tail. Families admitted together are a
*cohort*: they advance in step, so a new key is one slice written in place and the attention of a
cohort is a few batched matrix products, with no padding but that of unequal prompts.

Attention over the prompt and over the tail is one softmax over both, which is attention over their
concatenation: sharing is exact.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.collect.cache import PooledCache
from steerproof.errors import ModelError

_FIRST_COLUMNS = 32


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
    """The same for the tails; None when every tail starts at column 0."""
    prompts: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Per layer keys and values `[families, heads, columns, width]`."""
    tails: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Per layer keys and values `[families, heads, samples, columns, width]`."""
    columns: int = 0
    """Tail columns written so far."""
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


class PoolCache(PooledCache):
    """The cohorts."""

    def __init__(self, longest: int) -> None:
        """An empty cache.

        Args:
            longest: Positions of the longest row.
        """
        super().__init__(longest)
        self.cohorts: list[Cohort] = []
        self.gather: Tensor | None = None
        """For each batch row, its slot, counted through all cohorts."""
        self._filling: Cohort | None = None

    @property
    def is_filling(self) -> bool:
        """Whether a forward pass is one over prompts."""
        return self._filling is not None

    @contextmanager
    def filling(self, cohort: Cohort) -> Iterator[None]:
        """While inside, a forward pass over prompts `[families, columns]` fills a cohort."""
        self._filling = cohort
        try:
            yield
        finally:
            self._filling = None

    def advance(self) -> None:
        """Make room for one more column in every tail."""
        for cohort in self.cohorts:
            if cohort.columns == cohort.tails[0][0].shape[3]:
                _grow(cohort)
            cohort.columns += 1

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values into the cohort that is being filled, or into every tail."""
        if self._filling is not None:
            _fill(self._filling, layer, keys, values)
            return
        for cohort in self.cohorts:
            for tail, new in zip(cohort.tails[layer], (keys, values), strict=True):
                rows = new[:, :, 0].index_select(0, _source(cohort))
                tail[:, :, :, cohort.columns - 1] = _by_family(rows, cohort)

    def attend_step(
        self, layer: int, query: Float[Tensor, "batch heads width"], scale: float
    ) -> Float[Tensor, "batch heads width"]:
        """Attention of one query per row over the row's prompt and tail."""
        query = query * scale
        outs = [_attend(cohort, layer, query) for cohort in self.cohorts]
        slots = outs[0] if len(outs) == 1 else torch.cat(outs)
        return slots.index_select(0, self.gather)  # type: ignore[arg-type]


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
    new.tail_mask = _tail_mask(new)
    return new


def _merge_layer(new: Cohort, parts: Sequence[Kept], layer: int, trims: Sequence[int]) -> None:
    width = max(1, *new.lengths)
    prompts, tails = [], []
    for which in (0, 1):
        old = parts[0].cohort.prompts[layer][which]
        heads, size = old.shape[1], old.shape[3]
        prompt = old.new_zeros(new.families, heads, width, size)
        tail = old.new_empty(new.families, heads, new.samples, _room(new.columns), size)
        first = 0
        for part, trim in zip(parts, trims, strict=True):
            last = first + len(part.families)
            f = torch.tensor(part.families, device=old.device)
            s = torch.tensor(_padded(part, new.samples), device=old.device)
            have = part.cohort.prompts[layer][which][f, :, :width]
            prompt[first:last, :, : have.shape[2]] = have
            rows = part.cohort.tails[layer][which][f[:, None], :, s, trim : part.cohort.columns]
            gap = new.columns - rows.shape[3]
            tail[first:last, :, :, :gap] = 0.0
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
    samples, columns = cohort.samples, cohort.columns
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
    cohort.tails.append((key.new_empty(room), value.new_empty(room)))


def _grow(cohort: Cohort) -> None:
    """Double the columns of the tails, a layer at a time."""
    room = 2 * cohort.columns
    for layer, pair in enumerate(cohort.tails):
        wider = []
        for old in pair:
            new = old.new_empty(*old.shape[:3], room, old.shape[4])
            new[:, :, :, : old.shape[3]] = old
            wider.append(new)
        cohort.tails[layer] = (wider[0], wider[1])
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


def _tail_mask(cohort: Cohort) -> Tensor | None:
    starts = [start for row in cohort.starts for start in row]
    if not any(starts):
        return None
    tail = cohort.tails[0][0]
    mask = _mask([[start, tail.shape[3]] for start in starts], tail.shape[3], tail)
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
