"""Completions of many cells in one batch: mixed adapters, directions, layers and prompts.

A row's text depends on the row alone (`sampling.py`), so how rows are put together is a matter of
speed only. Rows are admitted in the order given, as others end. Where memory runs out, the pool is
halved and its unfinished rows start again: their text is the same. On a CPU with several threads
there are several pools, each in a thread of its own (`model/shards.py`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steerproof.engine.cache.attention import attending
from steerproof.engine.canary import Canary, canaries
from steerproof.engine.lora.merged import fusable, whole_weights
from steerproof.engine.memory import bytes_per_token, free_bytes, new_pool, out_of_memory
from steerproof.engine.pool import RowPool
from steerproof.engine.rows import Batch, Branch, Completion, Row
from steerproof.engine.sampling import sample
from steerproof.engine.shards import Send, Supply, divided_threads, shard_count, side_by_side
from steerproof.engine.subject import Subject, attached, check_prompts, replicated, subject_of
from steerproof.errors import MachineError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.steering import Push, SlotAudit
from steerproof.spec.experiment import Generation

# Prompt tokens computed at once: more would only cost memory.
_PROMPT_TOKENS = 8192
# Rows that make another shard worth its while.
_SHARD_ROWS = 64
# Rows in flight in a shard, where nothing is asked for.
_MOST_ROWS = 2048
# What a push does is measured at every so many-th step: measuring it takes as long as pushing.
_AUDIT_EVERY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is in flight at once."""

    max_rows: int | None = None
    """Rows; beyond a few hundred more only help against per-step overheads. None takes 2,048 for
    each shard: while one of them runs Python the others wait, so overheads cost more there."""
    kv_bytes: int | None = None
    """Keys and values; None takes half of a CPU's free memory, or 80 % of a GPU's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a call of `generate` stands."""

    done: int
    running: int
    waiting: int
    tokens: int
    """Tokens drawn, those of restarted rows included."""


def generate(
    base: Base,
    rows: Iterable[Row],
    settings: Generation,
    *,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[Completion]:
    """Complete every row; completions come as rows end.

    `Engine` does the same, and tells what pushes did.

    Args:
        base: The frozen model; nothing is attached.
        rows: What to complete; each with its adapter and its push.
        settings: Temperature, nucleus and length (`samples` is not used: rows are spelt out).
        limits: How much is in flight.
        on_progress: Called after every step.

    Raises:
        ModelError: A prompt does not fit the context, an adapter does not fit the base, or the
            model is of a kind that cannot be pooled.
        SteeringError: A push does not fit the base.
        MachineError: A single family of rows does not fit into memory.
    """
    return Engine(base, rows).generate(settings, limits=limits, on_progress=on_progress)


class Engine:
    """A base with rows, and with all adapters and pushes that these refer to, each put on once."""

    def __init__(self, base: Base, rows: Iterable[Row], *, audit_every: int = _AUDIT_EVERY) -> None:
        """Load the adapters and make tables of the pushes; nothing is attached.

        Args:
            base: The frozen model.
            rows: What will be asked of it.
            audit_every: Measure what pushes do at every so many-th forward pass.

        Raises:
            ModelError: An adapter does not fit the base.
            SteeringError: A push does not fit it.
        """
        self._rows = tuple(rows)
        self._subject = subject_of(base, self._rows, audit_every=audit_every)

    def generate(
        self,
        settings: Generation,
        *,
        limits: Limits | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Completion]:
        """Complete every row; completions come as rows end.

        Until the iterator is exhausted or closed the model belongs to it: adapters and steering are
        attached, and its attention is replaced. Rows of one cell and question are best given
        together, and cells of one adapter one after another. Arguments and errors are those of
        `generate`.
        """
        return _complete(self._subject, self._rows, settings, limits or Limits(), on_progress)

    def canaries(self, text: Sequence[int]) -> dict[str, Canary | SteerproofError]:
        """Score a fixed text in the pool and alone, under the first row of each cell, by cell.

        Returns:
            What was seen, or what is wrong with the cell, and with no other.
        """
        first = {row.cell: row for row in reversed(self._rows)}
        return dict(zip(first, canaries(self._subject, list(first.values()), text), strict=True))

    def audit(self, push: Push) -> tuple[SlotAudit, ...]:
        """What each part of a push was measured to do so far, canaries included.

        Raises:
            SteeringError: No row has this push.
        """
        return self._subject.audit(push)


def _complete(
    subject: Subject,
    rows: Sequence[Row],
    settings: Generation,
    asked: Limits,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[Completion]:
    check_prompts(subject.base, rows, settings.max_new_tokens)
    families = _grouped(rows)
    if not families:
        return
    total = sum(map(len, families))
    shards = shard_count(subject.base.device, total // _SHARD_ROWS)
    most = (asked.max_rows or _MOST_ROWS * shards) // shards
    kv_bytes = asked.kv_bytes or free_bytes(subject.base)
    work = _Work(
        settings=settings,
        longest=settings.max_new_tokens + max(len(f[0].prompt_ids) for f in families),
        largest=max(map(len, families)),
        limits=Limits(max_rows=max(1, most), kv_bytes=kv_bytes // shards),
        supply=Supply(_dealt(families, shards), len, shards),
    )
    tally = _Tally(total, on_progress)
    if shards == 1:
        run = _Run(subject, work, 0, partial(tally, 0))
        with attached(subject):
            yield from run.complete()
        return
    with _side_by_side(subject, work, shards) as found:
        for item in found:
            if isinstance(item, Completion):
                yield item
            else:
                tally(*item)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the shards of one call of `generate` have in common."""

    settings: Generation
    longest: int
    """Positions of the longest row."""
    largest: int
    """Rows of the largest family."""
    limits: Limits
    """Of each shard."""
    supply: Supply[list[Row]]


class _Tally:
    """Adds up what the shards report."""

    def __init__(self, rows: int, report: Callable[[Progress], None] | None) -> None:
        self._rows = rows
        self._report = report
        self._latest: dict[int, Progress] = {}

    def __call__(self, shard: int, progress: Progress) -> None:
        """Take a shard's report, and report the sum."""
        self._latest[shard] = progress
        if self._report is not None:
            every = self._latest.values()
            done, running = sum(p.done for p in every), sum(p.running for p in every)
            self._report(
                Progress(
                    done=done,
                    running=running,
                    waiting=self._rows - done - running,
                    tokens=sum(p.tokens for p in every),
                )
            )


_Item = Completion | tuple[int, Progress]


@contextmanager
def _side_by_side(subject: Subject, work: _Work, shards: int) -> Iterator[Iterator[_Item]]:
    """Shards on replicas of the subject: completions, and each shard's progress after a step."""
    adapters = subject.adapters
    with divided_threads(shards):
        wholes = whole_weights(adapters) if adapters is not None and fusable(adapters) else None

    def complete(mine: Subject, shard: int, send: Send[_Item]) -> None:
        run = _Run(mine, work, shard, lambda progress: send((shard, progress)))
        with attached(mine, wholes):
            for completion in run.complete():
                send(completion)

    with ExitStack() as stack:
        subjects = [stack.enter_context(replicated(subject)) for _ in range(shards)]
        works = [partial(complete, mine, shard) for shard, mine in enumerate(subjects)]
        yield stack.enter_context(closing(side_by_side(works)))


class _Run:
    """One shard of a call of `generate`: what waits, and what has been counted."""

    def __init__(
        self,
        subject: Subject,
        work: _Work,
        shard: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.subject = subject
        self.waiting: deque[list[Row]] = deque()
        self.more = partial(work.supply.take, shard)
        self.settings = work.settings
        self.limits = work.limits
        self.on_progress = on_progress
        self.longest, self.largest = work.longest, work.largest
        self.bytes_per_token = bytes_per_token(subject.base, self.longest)
        self.pool: RowPool | None = None
        self.done = 0
        self.tokens = 0

    def complete(self) -> Iterator[Completion]:
        """Complete all that the supply has for this shard."""
        room, left = self.limits.max_rows or _MOST_ROWS, self.limits.kv_bytes or 0
        while self._refilled(room, 0):
            try:
                yield from self.until_done(room, left // self.bytes_per_token)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                room, left = self.halve(room, left, error)

    def _refilled(self, room: int, running: int) -> bool:
        """Take as many rows as are admitted at once; whether any wait."""
        waiting = sum(map(len, self.waiting))
        while waiting <= room // 4 and (family := self.more(waiting + running)) is not None:
            self.waiting.append(family)
            waiting += len(family)
        return bool(self.waiting)

    def until_done(self, room: int, columns: int) -> Iterator[Completion]:
        """Complete what waits, with at most `room` rows and `columns` keys in flight."""
        # A family goes in whole, even where there is room for fewer rows.
        rows = max(room, self.largest)
        self.pool = pool = new_pool(self.subject, self.longest, rows, columns)
        with attending(self.subject.base.model, pool.cache):
            while True:
                running = len(pool.rows)
                while self._refilled(room, running) and room - running >= max(1, room // 6):
                    self._admit(pool, room)
                    if len(pool.rows) == running:
                        break
                    running = len(pool.rows)
                if not running:
                    break
                yield from self._step(pool)
        self.pool = None

    def halve(self, room: int, left: int, error: Exception) -> tuple[int, int]:
        """Put the unfinished rows back and return smaller limits.

        Raises:
            MachineError: a single family was in flight.
        """
        rows = self.pool.rows if self.pool else []
        self.pool = None
        self.waiting.extendleft(reversed(_grouped(rows)))
        if room == 1:
            raise MachineError(
                "memory does not even suffice for one prompt and its samples: use a machine with"
                " more, a smaller model, or fewer new tokens"
            ) from error
        if self.subject.base.device.type == "cuda":
            torch.cuda.empty_cache()
        return max(1, min(room, len(rows) or room) // 2), max(1, left // 2)

    def _admit(self, pool: RowPool, room: int) -> None:
        """Admit waiting families while rows, keys and one forward pass have room."""
        asked: list[list[Row]] = []
        widest = rows = 0
        for family in self.waiting:
            widest = max(widest, len(family[0].prompt_ids))
            if rows > room // 4 or (asked and widest * (len(asked) + 1) > _PROMPT_TOKENS):
                break
            asked.append(family)
            rows += len(family)
        # A family that is alone is tried: if it does not fit, that is an error.
        count = pool.fitting(asked) or (0 if pool.rows else 1)
        taken = [self.waiting.popleft() for _ in asked[:count]]
        if taken:
            try:
                pool.admit(taken)
            except (torch.OutOfMemoryError, RuntimeError):
                self.waiting.extendleft(reversed(taken))
                raise

    def _step(self, pool: RowPool) -> Iterator[Completion]:
        ends = self.subject.base.eos_ids
        advanced = pool.step(self._draw)
        self.waiting.extendleft(reversed(_grouped(pool.evicted)))
        pool.evicted.clear()
        finished, running = [], 0
        for branch in advanced:
            ended = branch.tokens[-1] in ends
            if ended or len(branch.tokens) == self.settings.max_new_tokens:
                pool.end(branch)
                finished += _completions(branch, ended)
            else:
                running += len(branch.rows)
        self.tokens += running + len(finished)
        self.done += len(finished)
        yield from finished
        self.on_progress(
            Progress(
                done=self.done,
                running=running,
                waiting=sum(map(len, self.waiting)),
                tokens=self.tokens,
            )
        )

    def _draw(self, logits: Tensor, batch: Batch) -> Tensor:
        settings = self.settings
        drawing = (batch.seeds, batch.steps, settings.temperature, settings.top_p)
        return sample(logits, *drawing, owners=batch.owners)


def _dealt(families: list[list[Row]], shards: int) -> list[list[Row]]:
    """In the order in which stretches go to shards: an adapter's together, neighbours apart.

    Adapters near one another are often alike, also in how long their answers are.
    """
    adapters = dict.fromkeys(family[0].adapter for family in families)
    place = {adapter: (i % shards, i) for i, adapter in enumerate(adapters)}
    return sorted(families, key=lambda family: place[family[0].adapter])


def _grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by family, in the order in which families first appear."""
    families: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    return list(families.values())


def _completions(branch: Branch, ended: bool) -> list[Completion]:
    """What the rows of a branch became."""
    tokens = tuple(branch.tokens[:-1] if ended else branch.tokens)
    finish = "eos" if ended else "length"
    return [Completion(row=row, token_ids=tokens, finish=finish) for row in branch.rows]
