"""A batch of unfinished rows: admitted by families, advanced a token at a time, left as they end.

The batch holds only rows that go on; ordering it by adapter costs nothing, because the attention
finds each row's keys through an index (`attention.py`). Rows that have ended stay for a few steps
until leaving is worthwhile; cohorts that have thinned out are packed, and small ones merged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.collect.attention import Cohort, Kept, PoolCache, merged, new_cohort
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.lora import LoraPool
from steerproof.model.steering import Steering

# Ended rows leave when they are this share of the batch: rebuilding it costs a few per cent of it.
_REBUILD = 1 / 12
# A cohort is packed when its rows fit into this share of its slots: copying costs little beside
# the attention of empty slots.
_PACK = 0.8
# More cohorts mean more small kernels; fewer mean that rows of unlike length share one window.
_MOST_COHORTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is asked: the base model with the adapters and the pushes that rows refer to."""

    base: Base
    adapters: LoraPool | None = None
    """Slots of `Row.adapter`; None when every row uses the bare base."""
    steering: Steering | None = None
    """Slots of `Row.push`; None when no row is pushed."""

    def route(
        self, rows: "Sequence[Row]", mask: Tensor | None, padding: Sequence[int] = ()
    ) -> None:
        """Say which adapter and which push each row of the coming forward passes uses.

        Args:
            rows: In order of their adapters.
            mask: `[rows, seq]`, where a position is a real token; None when every position is.
                On the CPU.
            padding: Adapters of further rows, which are not pushed.
        """
        if self.adapters is not None:
            self.adapters.route(torch.tensor([*(row.adapter for row in rows), *padding]))
        if self.steering is not None:
            pushes = torch.tensor([*(row.push for row in rows), *(0 for _ in padding)])
            self.steering.route(pushes, mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to be drawn: cell, question, sample, and all that its text depends on."""

    cell: str
    question: int
    sample: int
    seed: int
    """`row_seed` of the three, and of the experiment."""
    prompt_ids: tuple[int, ...]
    adapter: int = 0
    """Slot of the adapter; 0 is the bare base."""
    push: int = 0
    """Slot of the push; 0 is none."""

    @property
    def family(self) -> tuple[Any, ...]:
        """What rows must share to share their prompt's keys and values."""
        return (self.cell, self.question, self.prompt_ids, self.adapter, self.push)


@dataclass(slots=True, eq=False)
class Live:
    """A row in the pool."""

    row: Row
    tokens: list[int] = field(default_factory=list)
    """Drawn so far."""
    ended: bool = False

    @property
    def last(self) -> int:
        """The token to be fed next."""
        return self.tokens[-1] if self.tokens else self.row.prompt_ids[-1]

    @property
    def position(self) -> int:
        """Position of the token to be fed next."""
        return len(self.row.prompt_ids) - 1 + len(self.tokens)


@dataclass(slots=True, kw_only=True)
class Batch:
    """The rows of the next step, ordered by adapter."""

    rows: list[Live]
    tokens: Int[Tensor, " rows"]
    positions: Int[Tensor, " rows"]
    steps: Int[Tensor, " rows"]
    seeds: Int[Tensor, " rows"]


Choose = Callable[[Float[Tensor, "rows vocab"], Batch], Int[Tensor, " rows"]]


class RowPool:
    """Unfinished rows with their keys and values."""

    def __init__(self, subject: Subject, longest: int, *, rows: int, columns: int) -> None:
        """An empty pool.

        Args:
            subject: its adapters and its steering must be attached.
            longest: positions of the longest row, prompt and answer.
            rows: most rows in flight.
            columns: positions, of all rows together, whose keys and values fit into memory.
        """
        self._subject = subject
        self._longest, self._most, self._columns = longest, rows, columns
        self.evicted: list[Row] = []
        """Rows that had to leave unfinished: none, since each has room for all its tokens."""
        self.cache = PoolCache(longest)
        self._lives: list[list[list[Live]]] = []  # cohort, family, slot
        self._batch: Batch | None = None
        self._ended = 0

    @property
    def running(self) -> list[Live]:
        """The unfinished rows, oldest cohort first."""
        return [x for cohort in self._lives for family in cohort for x in family if not x.ended]

    def fits(self, families: Sequence[Sequence[Row]]) -> bool:
        """Whether more rows can be admitted, each with room for the longest answer."""
        running = len(self.running)
        count = running + sum(map(len, families))
        return count <= self._most and count * self._longest <= self._columns

    @torch.inference_mode()
    def admit(self, families: Sequence[Sequence[Row]]) -> None:
        """Compute the prompts of some families and put their rows into the pool."""
        ordered = sorted(families, key=lambda rows: rows[0].adapter)
        prompts = [rows[0].prompt_ids[:-1] for rows in ordered]
        base = self._subject.base
        weight = next(base.model.parameters())
        cohort = new_cohort([len(p) for p in prompts], max(map(len, ordered)), weight)
        width = cohort.prompt_mask.shape[-1]
        ids = torch.tensor([[*p, *[base.pad_id] * (width - len(p))] for p in prompts])
        real = torch.arange(width) < torch.tensor(cohort.lengths)[:, None]
        self._subject.route([rows[0] for rows in ordered], real)
        with self.cache.filling(cohort):
            base.model(
                input_ids=ids.to(base.device),
                position_ids=torch.arange(width, device=base.device).expand(len(ids), -1),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache.cohorts.append(cohort)
        self._lives.append([[Live(row) for row in rows] for rows in ordered])
        self._batch = None

    @torch.inference_mode()
    def step(self, choose: Choose) -> list[Live]:
        """Feed every row its last token and append the chosen next one.

        Returns:
            The rows that were advanced; whoever ends one calls `end`.
        """
        batch = self._batch
        if batch is None or self._ended > _REBUILD * len(batch.rows):
            batch = self._rebuild()
        self.cache.advance()
        output: Any = self._subject.base.model(
            input_ids=batch.tokens[:, None],
            position_ids=batch.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        batch.tokens = choose(output.logits[:, -1], batch)
        batch.positions += 1
        batch.steps += 1
        advanced = []
        for live, token in zip(batch.rows, batch.tokens.tolist(), strict=True):
            if not live.ended:
                live.tokens.append(token)
                advanced.append(live)
        return advanced

    def end(self, live: Live) -> None:
        """Let a row leave the pool."""
        live.ended = True
        self._ended += 1

    def _rebuild(self) -> Batch:
        """Pack the cohorts and make the batch anew from the rows that go on."""
        self._pack()
        places, offset = [], 0
        for cohort, families in zip(self.cache.cohorts, self._lives, strict=True):
            for f, family in enumerate(families):
                first = offset + f * cohort.samples
                places += [(x, first + s) for s, x in enumerate(family) if not x.ended]
            offset += cohort.slots
        places.sort(key=lambda place: place[0].row.adapter)
        rows = [live for live, _ in places]
        slots = torch.tensor([slot for _, slot in places])
        source = torch.zeros(offset, dtype=torch.int64)
        source[slots] = torch.arange(len(rows))
        device = self._subject.base.device
        sizes = [cohort.slots for cohort in self.cache.cohorts]
        for cohort, part in zip(self.cache.cohorts, source.to(device).split(sizes), strict=True):
            cohort.source = part
        self.cache.gather = slots.to(device)
        self._subject.route([live.row for live in rows], None)
        self._ended = 0
        self._batch = Batch(
            rows=rows,
            tokens=torch.tensor([live.last for live in rows], device=device),
            positions=torch.tensor([live.position for live in rows], device=device),
            steps=torch.tensor([len(live.tokens) for live in rows], device=device),
            seeds=torch.tensor([live.row.seed for live in rows], device=device),
        )
        return self._batch

    def _pack(self) -> None:
        """Drop what is empty, pack cohorts that are nearly so, merge the smallest."""
        kept = [
            _kept(cohort, families)
            for cohort, families in zip(self.cache.cohorts, self._lives, strict=True)
        ]
        pairs = [pair for pair in kept if pair[0].families]
        for i, (part, lives) in enumerate(pairs):
            if _need(part) <= _PACK * part.cohort.slots:
                pairs[i] = _packed([part], [lives])
        pairs.sort(key=lambda pair: pair[0].cohort.columns)
        while len(pairs) > _MOST_COHORTS:
            # Neighbours in length, where the shorter rows gain the fewest empty columns.
            i = min(range(len(pairs) - 1), key=lambda i: _waste(pairs[i][0], pairs[i + 1][0]))
            (a, b), (c, d) = pairs[i : i + 2]
            pairs[i : i + 2] = [_packed([a, c], [b, d])]
        self.cache.cohorts = [part.cohort for part, _ in pairs]
        self._lives = [lives for _, lives in pairs]


def check_slots(subject: Subject, rows: Sequence[Row]) -> None:
    """Check that nothing is asked for that the subject does not have.

    Raises:
        ModelError: a row uses an adapter or a push and the subject has none, or an empty prompt.
    """
    for row in rows:
        if row.adapter and subject.adapters is None:
            raise ModelError(f"{row.cell} uses adapter slot {row.adapter}, but there is no pool")
        if row.push and subject.steering is None:
            raise ModelError(f"{row.cell} uses push slot {row.push}, but there is no steering")
        if not row.prompt_ids:
            raise ModelError(f"{row.cell}, question {row.question}: the prompt has no token")


def _kept(cohort: Cohort, lives: list[list[Live]]) -> tuple[Kept, list[list[Live]]]:
    samples = [[s for s, live in enumerate(family) if not live.ended] for family in lives]
    families = [f for f, slots in enumerate(samples) if slots]
    part = Kept(cohort=cohort, families=families, samples=[samples[f] for f in families])
    return part, lives


def _need(part: Kept) -> int:
    """Slots that the kept rows would take."""
    return len(part.families) * max(map(len, part.samples))


def _waste(short: Kept, long: Kept) -> int:
    """Empty tail columns that merging would give the shorter of two."""
    return _need(short) * (long.cohort.columns - short.cohort.columns)


def _packed(
    parts: Sequence[Kept], lives: Sequence[list[list[Live]]]
) -> tuple[Kept, list[list[Live]]]:
    cohort = merged(parts)
    rows = [
        [family[s] for s in slots]
        for part, families in zip(parts, lives, strict=True)
        for family, slots in zip((families[f] for f in part.families), part.samples, strict=True)
    ]
    return _kept(cohort, rows)
