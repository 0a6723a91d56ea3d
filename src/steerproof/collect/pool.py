"""A batch of unfinished rows: admitted by families, advanced a token at a time, left as they end.

Who is in a batch is a matter of tables that are written anew (`pages.py`); rows that have ended
stay for a few steps until that is worthwhile. Where pages run out the youngest rows are sent away,
to begin again later: their text is the same. On a GPU batches are padded to a few sizes, each of
which is captured as a graph once (`graphs.py`).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from steerproof.collect.graphs import CapturedSteps
from steerproof.collect.pages import PAGE, TRASH, PagedCache, pages_of, prompt_places
from steerproof.collect.rows import Batch, Choose, Live, Row, Subject
from steerproof.model.transfer import sent, unplanned_attention

# Ended rows leave when they are this share of the batch: new tables take some milliseconds.
_REBUILD = 1 / 16
# Share of the rows that leave at once where pages run out.
_EVICTED = 1 / 16
# Sizes of a batch on a GPU: each costs a capture, and padding costs a row's arithmetic.
_SMALL_SIZES = (16, 64, 128, 256, 384, 512)
_SIZE_STEP = 256
_NO_PAGE = "out of memory: no page is left for keys and values"


class RowPool:
    """Unfinished rows with their keys and values."""

    def __init__(self, subject: Subject, longest: int, *, rows: int, pages: int) -> None:
        """An empty pool.

        Args:
            subject: Its adapters and its steering must be attached.
            longest: Positions of the longest row, prompt and answer.
            rows: Most rows in flight.
            pages: Pages of keys and values that fit into memory.
        """
        self._subject = subject
        self._longest = longest
        self._most = rows
        self._device = subject.base.device
        self._steps = CapturedSteps(self._device, self._rehearsing)
        most = self._size(rows)
        self.cache = PagedCache(pages + 1, most, longest, self._device)
        self._tokens = torch.zeros(most, dtype=torch.int64, device=self._device)
        self._logits = torch.zeros(0, 0, dtype=subject.base.dtype, device=self._device)
        self._reserve(most)
        self._free = [page for page in range(pages, -1, -1) if page != TRASH]
        self._uses = np.zeros(pages + 1, dtype=np.int64)
        self._pages: dict[Live, list[int]] = {}
        self._batch: Batch | None = None
        self._positions = np.zeros(0, dtype=np.int64)
        self._drawn = self._left = self._ended = 0
        self.evicted: list[Row] = []
        """Rows that had to leave unfinished; whoever takes them empties the list."""

    @property
    def running(self) -> list[Live]:
        """The unfinished rows, oldest first."""
        return [live for live in self._pages if not live.ended]

    def fitting(self, families: Sequence[Sequence[Row]]) -> int:
        """How many of these families can be admitted, if rows reach the length to be expected.

        A row goes on for the mean of what has been drawn per row that has ended.
        """
        more = int(self._drawn / self._left) if self._left else self._longest
        running = self.running
        reach = np.array([live.position for live in running], dtype=np.int64) + more
        pages = len(self._uses) - 1 - int(pages_of(np.minimum(self._longest, reach)).sum())
        room = self._most - len(running)
        for count, rows in enumerate(families):
            expected = min(self._longest, len(rows[0].prompt_ids) + more)
            pages, room = pages - len(rows) * pages_of(expected), room - len(rows)
            if pages < 0 or room < 0:
                return count
        return len(families)

    @torch.inference_mode()
    def admit(self, families: Sequence[Sequence[Row]]) -> None:
        """Compute the prompts of some families and put their rows into the pool.

        Raises:
            torch.OutOfMemoryError: There are not enough pages.
        """
        ordered = sorted(families, key=lambda rows: rows[0].adapter)
        lengths = [len(rows[0].prompt_ids) - 1 for rows in ordered]
        self._drop_ended()
        if sum(map(_prompt_pages, ordered)) > len(self._free):
            raise torch.OutOfMemoryError(_NO_PAGE)
        lives = [[Live(row) for row in rows] for rows in ordered]
        for length, rows in zip(lengths, lives, strict=True):
            shared = self._taken(length // PAGE)
            for live in rows:
                own = self._taken(pages_of(length) - len(shared))
                self._pages[live] = [*shared, *own]
                self._uses[self._pages[live]] += 1
        tables = [[self._pages[live] for live in rows] for rows in lives]
        width = max(1, *lengths)
        source, place = (sent(x, self._device) for x in prompt_places(lengths, tables, width))
        prompts = [rows[0].prompt_ids[:-1] for rows in ordered]
        base = self._subject.base
        ids = torch.tensor([[*p, *[base.pad_id] * (width - len(p))] for p in prompts])
        real = torch.arange(width) < torch.tensor(lengths)[:, None]
        self._subject.route([rows[0] for rows in ordered], real)
        with self.cache.filling(source, place), unplanned_attention(self._device):
            base.model(
                input_ids=sent(ids, self._device),
                position_ids=torch.arange(width, device=self._device).expand(len(ids), -1),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._batch = None

    @torch.inference_mode()
    def step(self, choose: Choose) -> list[Live]:
        """Feed every row its last token and append the chosen next one.

        Returns:
            The rows that were advanced; whoever ends one calls `end`.
        """
        batch = self._batch
        if batch is None or self._ended > _REBUILD * len(batch.rows) or self._would_shrink(batch):
            batch = self._rebuild()
        batch = self._paged(batch)
        rows = len(batch.rows)
        size = self._size(rows)
        self._steps(size, lambda: self._forward(size))
        batch.tokens.copy_(choose(self._logits[:rows], batch))
        batch.positions += 1
        batch.steps += 1
        self._positions += 1
        advanced = []
        for live, token in zip(batch.rows, batch.tokens.tolist(), strict=True):
            if not live.ended:
                live.tokens.append(token)
                advanced.append(live)
        self._drawn += len(advanced)
        return advanced

    def end(self, live: Live) -> None:
        """Let a row leave the pool."""
        live.ended = True
        self._ended += 1
        self._left += 1

    def _forward(self, size: int) -> None:
        self.cache.point(size)
        output: Any = self._subject.base.model(
            input_ids=self._tokens[:size, None],
            position_ids=self.cache.positions[:size, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
        if not self._logits.numel():
            self._logits = logits.new_empty(len(self._tokens), logits.shape[1])
        self._logits[:size].copy_(logits)

    def _would_shrink(self, batch: Batch) -> bool:
        fewer = self._size(len(batch.rows) - self._ended)
        return self._steps.captures and fewer < self._size(len(batch.rows))

    def _paged(self, batch: Batch) -> Batch:
        """Give every row a page for its next key; sends rows away where there is none."""
        while True:
            entering = np.flatnonzero(self._positions % PAGE == 0).tolist()
            rows = [(i, batch.rows[i]) for i in entering if not batch.rows[i].ended]
            wanting = [(i, x) for i, x in rows if len(self._pages[x]) <= x.position // PAGE]
            if len(wanting) <= len(self._free):
                break
            self._make_room()
            batch = self._rebuild()
        if wanting:
            taken = self._taken(len(wanting))
            self._uses[taken] += 1
            places = [[i, x.position // PAGE] for i, x in wanting]
            for (_, live), page in zip(wanting, taken, strict=True):
                self._pages[live].append(page)
            at = sent(torch.tensor(places), self._device)
            pages = sent(torch.tensor(taken, dtype=torch.int32), self._device)
            self.cache.table.index_put_((at[:, 0], at[:, 1]), pages)
        return batch

    def _make_room(self) -> None:
        """Free pages: those of rows that have ended, or else those of the youngest rows.

        Raises:
            torch.OutOfMemoryError: A single row goes on, and needs more than there are.
        """
        before = len(self._free)
        self._drop_ended()
        if len(self._free) > before:
            return
        running = sorted(self.running, key=lambda live: len(live.tokens))
        if len(running) == 1:
            raise torch.OutOfMemoryError(_NO_PAGE)
        for live in running[: max(1, int(_EVICTED * len(running)))]:
            live.ended = True
            self.evicted.append(live.row)
            self._release(live)

    def _drop_ended(self) -> None:
        for live in [live for live in self._pages if live.ended]:
            self._release(live)

    def _release(self, live: Live) -> None:
        pages = self._pages.pop(live)
        self._uses[pages] -= 1
        self._free += [page for page in pages if not self._uses[page]]

    def _taken(self, count: int) -> list[int]:
        return [self._free.pop() for _ in range(count)]

    def _rebuild(self) -> Batch:
        """Make the batch anew from the rows that go on, ordered by adapter."""
        self._drop_ended()
        rows = sorted(self._pages, key=lambda live: live.row.adapter)
        size, count = self._size(len(rows)), len(rows)
        table = np.full((size, self.cache.table.shape[1]), TRASH, dtype=np.int32)
        for i, live in enumerate(rows):
            table[i, : len(self._pages[live])] = self._pages[live]
        self._positions = np.array([live.position for live in rows])
        self.cache.table[:size].copy_(torch.from_numpy(table))
        self.cache.positions[:count].copy_(torch.from_numpy(self._positions))
        self.cache.positions[count:size] = 0
        self._tokens[:count].copy_(torch.tensor([live.last for live in rows]))
        # Padding rides with the last adapter, unpushed; it reads and writes only the page TRASH.
        padding = [rows[-1].row.adapter] * (size - count)
        self._subject.route([live.row for live in rows], None, padding)
        self._ended = 0
        self._batch = Batch(
            rows=rows,
            tokens=self._tokens[:count],
            positions=self.cache.positions[:count],
            steps=torch.tensor([len(live.tokens) for live in rows], device=self._device),
            seeds=torch.tensor([live.row.seed for live in rows], device=self._device),
        )
        return self._batch

    def _rehearsing(self) -> AbstractContextManager[None]:
        steering = self._subject.steering
        return nullcontext() if steering is None else steering.replaying()

    def _size(self, rows: int) -> int:
        """The batch size to which so many rows are padded."""
        if not self._steps.captures:
            return rows
        for size in _SMALL_SIZES:
            if rows <= size:
                return size
        return -(-rows // _SIZE_STEP) * _SIZE_STEP

    def _reserve(self, rows: int) -> None:
        """What says which row has which adapter and push may not move: a graph reads it there."""
        if self._subject.adapters is not None:
            self._subject.adapters.reserve(rows)
        if self._subject.steering is not None:
            self._subject.steering.reserve(rows)


def _prompt_pages(rows: Sequence[Row]) -> int:
    """Pages of a family's prompt: those it fills once, and one of each row for what is left."""
    length = len(rows[0].prompt_ids) - 1
    return length // PAGE + len(rows) * (length % PAGE > 0)
