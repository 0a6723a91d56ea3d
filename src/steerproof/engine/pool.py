"""A batch of unfinished rows: admitted by families, advanced a token at a time, left as they end.

A family begins as one branch, and parts where its rows draw unlike tokens: what rows have in common
is computed once. Who is in a batch is a matter of tables that are written anew (`pages.py`);
branches that have ended stay for a few steps until that is worthwhile. Where pages run out the
youngest branches are sent away, and their rows begin again later: their text is the same. On a GPU
batches are padded to a few sizes, each of which is captured as a graph once (`graphs.py`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from steerproof.engine.cache.pages import PAGE, TRASH, PagedCache, filled, pages_of, prompt_places
from steerproof.engine.graphs import CapturedSteps
from steerproof.engine.prompts import packed
from steerproof.engine.rows import Batch, Branch, Choose, Row
from steerproof.engine.subject import Subject
from steerproof.model.push import Where
from steerproof.model.transfer import sent, unplanned_attention

# Ended branches leave when they are this share of the batch: new tables take some milliseconds.
_REBUILD = 1 / 32
# Share of the branches that leave at once where pages run out.
_EVICTED = 1 / 16
# Tokens of a sequence in which prompts share what they begin with: its attention is quadratic.
# Not on a GPU, whose fast attention takes no mask.
_PACKED = 512
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
        steering = subject.steering
        # Not a method of this pool's: that circle would keep its pages when it is done with.
        self._steps = CapturedSteps(self._device, steering.replaying if steering else nullcontext)
        most = self._size(rows)
        self.cache = PagedCache(pages + 1, most, longest, self._device)
        self._tokens = torch.zeros(most, dtype=torch.int64, device=self._device)
        self._logits = torch.zeros(0, 0, dtype=subject.base.dtype, device=self._device)
        self._reserve(most)
        self._free = [page for page in range(pages, -1, -1) if page != TRASH]
        self._uses = np.zeros(pages + 1, dtype=np.int64)
        self._pages: dict[Branch, list[int]] = {}
        self._batch: Batch | None = None
        # What the host needs to know of the batch's tensors.
        self._positions = np.zeros(0, dtype=np.int64)
        self._owners = self._positions, self._positions
        self._drawn = self._left = self._ended = 0
        self.evicted: list[Row] = []
        """Rows that had to leave unfinished; whoever takes them empties the list."""

    @property
    def rows(self) -> list[Row]:
        """The unfinished rows, oldest first."""
        return [row for branch in self._running for row in branch.rows]

    @property
    def _running(self) -> list[Branch]:
        return [branch for branch in self._pages if not branch.ended]

    def fitting(self, families: Sequence[Sequence[Row]]) -> int:
        """How many of these families can be admitted, if rows reach the length to be expected.

        A row goes on for the mean of what has been drawn per row that has ended, and is expected
        to part from the others soon.
        """
        more = int(self._drawn / self._left) if self._left else self._longest
        running = self._running
        counts = np.array([len(branch.rows) for branch in running], dtype=np.int64)
        reach = np.array([branch.position for branch in running], dtype=np.int64) + more
        taken = counts * pages_of(np.minimum(self._longest, reach))
        pages, room = len(self._uses) - 1 - int(taken.sum()), self._most - int(counts.sum())
        for count, rows in enumerate(families):
            expected = min(self._longest, len(rows[0].prompt_ids) + more)
            pages, room = pages - len(rows) * pages_of(expected), room - len(rows)
            if pages < 0 or room < 0:
                return count
        return len(families)

    @torch.inference_mode()
    def admit(self, families: Sequence[Sequence[Row]]) -> None:
        """Compute the prompts of some families and put their rows into the pool: all or none.

        Raises:
            torch.OutOfMemoryError: There are not enough pages.
        """
        slot = self._subject.adapter_slot
        branches = [Branch(list(rows)) for rows in sorted(families, key=lambda f: slot(f[0]))]
        self._drop_ended()
        if sum(pages_of(branch.position) for branch in branches) > len(self._free):
            raise torch.OutOfMemoryError(_NO_PAGE)
        tables = [self._taken(pages_of(branch.position)) for branch in branches]
        base, on = self._subject.base, self._device
        longest = 0 if self._steps.captures else _PACKED
        prompts = packed([branch.rows[0] for branch in branches], longest, base.pad_id)
        place = prompt_places([branch.position for branch in branches], tables)
        source = torch.tensor([token for path in prompts.paths for token in path]).long()
        mask = None if prompts.mask is None else torch.from_numpy(prompts.mask).to(on)
        real = torch.from_numpy(prompts.real)
        where: list[Where] = ["prompt"] * len(prompts.rows)
        self._subject.route(prompts.rows, real, where)
        filling = self.cache.filling(sent(source, on), sent(place, on), mask)
        with filling, unplanned_attention(on):
            base.model(
                input_ids=sent(torch.from_numpy(prompts.ids), on),
                position_ids=sent(torch.from_numpy(prompts.positions), on),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        for branch, pages in zip(branches, tables, strict=True):
            self._hold(branch, pages)
        self._batch = None

    @torch.inference_mode()
    def step(self, choose: Choose) -> list[Branch]:
        """Feed every branch its last token and append what its rows are given next.

        Returns:
            The branches that were advanced, those that have just parted among them; whoever ends
            one calls `end`.
        """
        batch = self._batch
        if batch is None or self._thin(batch):
            batch = self._rebuild()
        batch = self._paged(batch)
        count = len(batch.branches)
        size = self._size(count)
        self._steps(size, lambda: self._forward(size))
        drawn = choose(self._logits[:count], batch)
        batch.tokens.copy_(drawn.index_select(0, batch.firsts))
        batch.positions += 1
        batch.steps += 1
        self._positions += 1
        advanced = self._advanced(batch, drawn.cpu().numpy())
        if batch.turns:
            self._batch = None
        self._drawn += sum(len(branch.rows) for branch in advanced)
        return advanced

    def end(self, branch: Branch) -> None:
        """Let a branch, with all its rows, leave the pool."""
        branch.ended = True
        self._ended += 1
        self._left += len(branch.rows)

    def _advanced(self, batch: Batch, drawn: np.ndarray) -> list[Branch]:
        """Append drawn tokens; rows that drew another than their branch's first part from it."""
        owners, firsts = self._owners
        tokens = drawn[firsts]
        parting = np.unique(owners[drawn != tokens[owners]]).tolist()
        parted = []
        for place in parting:
            branch, first = batch.branches[place], int(firsts[place])
            if not branch.ended:
                parted += _part(branch, drawn[first : first + len(branch.rows)].tolist())
        advanced = []
        for branch, token in zip(batch.branches, tokens.tolist(), strict=True):
            if not branch.ended:
                branch.tokens.append(token)
                advanced.append(branch)
        return advanced + self._forked(parted) if parted else advanced

    def _forked(self, parted: list[tuple[Branch, Branch]]) -> list[Branch]:
        """Give branches that have parted pages of their own; sends rows away where there is none.

        Args:
            parted: Each new branch, after the one that it parted from.

        Returns:
            The new branches that have pages.
        """
        if len(self._free) < len(parted):
            self._drop_ended()
        source, target, found = [], [], []
        for before, branch in parted:
            full, rest = divmod(branch.position, PAGE)
            if rest and not self._free:
                self.evicted += branch.rows
                continue
            pages = self._pages[before]
            own = self._taken(1) if rest else []
            source += pages[full : full + len(own)]
            target += own
            self._hold(branch, [*pages[:full], *own])
            found.append(branch)
        if target:
            both = torch.tensor([source, target], device=self._device)
            self.cache.copy_pages(both[0], both[1])
        self._batch = None
        return found

    def _forward(self, size: int) -> None:
        self.cache.point(size)
        output: Any = self._subject.base.model(
            input_ids=self._tokens[:size, None],
            position_ids=self.cache.positions[:size, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
        if not self._steps.captures:
            self._logits = logits
            return
        if not self._logits.numel():
            self._logits = logits.new_empty(len(self._tokens), logits.shape[1])
        self._logits[:size].copy_(logits)

    def _thin(self, batch: Batch) -> bool:
        """Whether so many have ended that a new batch is worthwhile."""
        count = len(batch.branches)
        smaller = self._size(count - self._ended) < self._size(count)
        return self._ended > _REBUILD * count or (self._steps.captures and smaller)

    def _paged(self, batch: Batch) -> Batch:
        """Give every branch a page for its next key; sends some away where there is none."""
        while True:
            entering = np.flatnonzero(self._positions % PAGE == 0).tolist()
            among = [(i, batch.branches[i]) for i in entering if not batch.branches[i].ended]
            wanting = [(i, x) for i, x in among if len(self._pages[x]) <= x.position // PAGE]
            if len(wanting) <= len(self._free):
                break
            self._make_room()
            batch = self._rebuild()
        if wanting:
            taken = self._taken(len(wanting))
            self._uses[taken] += 1
            places = [[i, x.position // PAGE] for i, x in wanting]
            for (_, branch), page in zip(wanting, taken, strict=True):
                self._pages[branch].append(page)
            at = sent(torch.tensor(places), self._device)
            pages = sent(torch.tensor(taken, dtype=torch.int32), self._device)
            self.cache.table.index_put_((at[:, 0], at[:, 1]), pages)
        return batch

    def _make_room(self) -> None:
        """Free pages: those of branches that have ended, or else those of the youngest.

        Raises:
            torch.OutOfMemoryError: A single branch goes on, and needs more than there are.
        """
        before = len(self._free)
        self._drop_ended()
        if len(self._free) > before:
            return
        running = sorted(self._running, key=lambda branch: len(branch.tokens))
        if len(running) == 1:
            raise torch.OutOfMemoryError(_NO_PAGE)
        for branch in running[: max(1, int(_EVICTED * len(running)))]:
            branch.ended = True
            self.evicted += branch.rows
            self._release(branch)

    def _drop_ended(self) -> None:
        for branch in [branch for branch in self._pages if branch.ended]:
            self._release(branch)

    def _hold(self, branch: Branch, pages: list[int]) -> None:
        self._pages[branch] = pages
        self._uses[pages] += 1

    def _release(self, branch: Branch) -> None:
        pages = self._pages.pop(branch)
        self._uses[pages] -= 1
        self._free += [page for page in pages if not self._uses[page]]

    def _taken(self, count: int) -> list[int]:
        return [self._free.pop() for _ in range(count)]

    def _rebuild(self) -> Batch:
        """Make the batch anew from the branches that go on, ordered by adapter."""
        self._drop_ended()
        slot = self._subject.adapter_slot
        branches = sorted(self._pages, key=lambda branch: slot(branch.rows[0]))
        size, count = self._size(len(branches)), len(branches)
        table = filled([self._pages[branch] for branch in branches], self.cache.table.shape[1])
        self._positions = np.array([branch.position for branch in branches])
        self.cache.table[:count].copy_(torch.from_numpy(table))
        self.cache.table[count:size] = TRASH
        self.cache.positions[:count].copy_(torch.from_numpy(self._positions))
        self.cache.positions[count:size] = 0
        self._tokens[:count].copy_(torch.tensor([branch.last for branch in branches]))
        # Padding rides with the last adapter, unpushed; it reads and writes only the page TRASH.
        padding = [branches[-1].rows[0]] * (size - count)
        rows, where = zip(*((branch.rows[0], branch.where) for branch in branches), strict=True)
        self._subject.route(rows, None, where, padding)
        self._ended = 0
        self._batch = self._batch_of(branches)
        return self._batch

    def _batch_of(self, branches: list[Branch]) -> Batch:
        rows = [row for branch in branches for row in branch.rows]
        counts = np.array([len(branch.rows) for branch in branches])
        drawn = np.array([len(branch.tokens) for branch in branches])
        owners, firsts = np.repeat(np.arange(len(branches)), counts), counts.cumsum() - counts
        self._owners = owners, firsts
        seeds = np.array([row.seed for row in rows], dtype=np.int64)
        arrays = (owners, firsts, drawn[owners], seeds)
        owners, firsts, steps, seeds = (sent(torch.from_numpy(x), self._device) for x in arrays)
        return Batch(
            branches=branches,
            tokens=self._tokens[: len(branches)],
            positions=self.cache.positions[: len(branches)],
            rows=rows,
            owners=owners,
            firsts=firsts,
            steps=steps,
            seeds=seeds,
            turns=any(branch.turns for branch in branches),
        )

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


def _part(branch: Branch, tokens: list[int]) -> list[tuple[Branch, Branch]]:
    """Leave a branch the rows that were given its first row's token; the others form new ones.

    Args:
        branch: Its token is not appended yet.
        tokens: One for each of its rows.

    Returns:
        Each new branch, with its token appended, after the one that it parted from.
    """
    groups: dict[int, list[Row]] = {}
    for row, token in zip(branch.rows, tokens, strict=True):
        groups.setdefault(token, []).append(row)
    (_, branch.rows), *others = groups.items()
    return [(branch, Branch(rows, [*branch.tokens, token])) for token, rows in others]
