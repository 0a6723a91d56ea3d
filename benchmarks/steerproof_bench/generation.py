"""Pooled generation against cell-by-cell generation with PEFT and Hugging Face's `generate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch

from steerproof.engine.generate import Engine
from steerproof_bench.agreement import Agreement, check_rates
from steerproof_bench.cells import CellWork, regrouped
from steerproof_bench.comparison import Comparison, Peer, Say, Timing, alternate, silent, timed
from steerproof_bench.costs import generation_limit
from steerproof_bench.limits import synchronise
from steerproof_bench.memory import peak_memory
from steerproof_bench.peft_generation import PeftCells

_OURS = "all in one pool"
_MERGED = "for each cell: PEFT merge, hook, generate"
_UNMERGED = "base once, PEFT unmerged, hook, generate"
_PEERS = {_MERGED: True, _UNMERGED: False}
"""Each way of a peer, and whether it merges."""

Drawn = Mapping[str, Sequence[tuple[int, ...]]]
"""The completions of each cell, as token ids; of ours, in the order of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a way of generating gave."""

    tokens: int
    """Drawn, those that ended a row included."""
    rows: int
    fired: int
    mean_length: float
    cell_steps: int
    """Steps of the longest row of each cell, added up: what is needed cell by cell."""

    @property
    def rate(self) -> float:
        """Share of rows in which the marker fired."""
        return self.fired / self.rows


def compare(
    work: CellWork,
    *,
    repeats: int,
    growth: Sequence[int] = (),
    peer_cells: int | None = None,
    say: Say = silent,
) -> Comparison:
    """Time the pool and both peers on the same cells, and check that they agree.

    A peer does one cell after another, so where all of them would take too long some are timed and
    the time is multiplied; `cells_timed` among its numbers says how many.

    Args:
        work: The cells.
        repeats: Timed rounds after a first one, whose results are compared; with 0, that is timed.
        growth: Numbers of adapters over which the same rows are dealt and timed, ours alone.
        peer_cells: Cells that a peer does, spread over all; None for all.
        say: Told every time that is taken.

    Raises:
        ModelError: A peer's log-probabilities or firing rate are not ours.
        MachineError: PEFT is not installed.
    """
    first: dict[str, float] = {}
    engine = Engine(work.base, work.all_rows)
    with peak_memory(work.base.device) as ours:
        drawn, first[_OURS] = timed(lambda: _pooled(work, engine))
    say(f"first run, {_OURS}: {first[_OURS]:.1f} s")
    seen = _seen(work, drawn)
    grown = _growth(work, growth, repeats)
    some = work.some_cells(peer_cells or len(work.names))
    agreement, peers = Agreement(some), PeftCells(some)
    found = {}
    for name in _PEERS:
        found[name] = _first_run(peers, name, (_seen(some, drawn), agreement), say)
        first[name] = found[name].seconds
    ways = {name: lambda m=merged: peers.generate(merged=m) for name, merged in _PEERS.items()}
    times = alternate({_OURS: lambda: _pooled(work, engine), **ways}, repeats, first, say)
    mine = times[_OURS]
    return Comparison(
        work=_title(work),
        seconds=mine.seconds,
        spread=(mine.least, mine.most),
        numbers={
            **_numbers(seen, mine.seconds, ours.bytes),
            **agreement.errors(agreement.ours),
            **generation_limit(work, drawn, mine.seconds),
            **grown,
        },
        peers=tuple(_peer(name, run, times[name], work, some) for name, run in found.items()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FirstRun:
    """A peer's first run, which was compared with ours."""

    seconds: float
    seen: Seen
    difference: float
    """Largest difference of a token's log-probability, nats."""
    errors: Mapping[str, float]
    """How far from float32 it is, in half precision."""
    memory: int


def _first_run(peers: PeftCells, name: str, ours: tuple[Seen, Agreement], say: Say) -> _FirstRun:
    work, merged = peers.work, _PEERS[name]
    seen, agreement = ours
    with peak_memory(peers.base.device) as peak:
        texts, seconds = timed(lambda: peers.generate(merged=merged))
    say(f"first run, {name}, {len(work.names)} cells: {seconds:.1f} s")
    drawn = _seen(work, texts)
    check_rates(name, (seen.fired, seen.rows), (drawn.fired, drawn.rows))
    scores = [peers.log_probs(cell, merged=merged) for cell in work.names]
    return _FirstRun(
        seconds=seconds,
        seen=drawn,
        difference=agreement.check(name, scores, merged=merged),
        errors=agreement.errors(scores),
        memory=peak.bytes,
    )


def _peer(name: str, run: _FirstRun, time: Timing, work: CellWork, some: CellWork) -> Peer:
    """A peer that did some cells, as if it had done all."""
    taken = time.scaled(len(work.names) / len(some.names))
    return Peer(
        name=f"{name} (transformers {version('transformers')}, peft {version('peft')})",
        seconds=taken.seconds,
        spread=(taken.least, taken.most),
        difference=run.difference,
        numbers={
            **_numbers(run.seen, time.seconds, run.memory),
            **run.errors,
            "cells_timed": float(len(some.names)),
        },
    )


def _pooled(work: CellWork, engine: Engine) -> Drawn:
    found = {
        (one.row.cell, one.row.question, one.row.sample): one.token_ids
        for one in engine.complete(work.settings)
    }
    synchronise(work.base.device)
    return {
        name: [found[name, row.question, row.sample] for row in rows]
        for name, rows in work.rows.items()
    }


def _growth(work: CellWork, counts: Sequence[int], repeats: int) -> dict[str, float]:
    """Seconds of the same rows over different numbers of adapters, in turns."""
    works = {}
    for count in counts:
        dealt = regrouped(work, count)
        engine = Engine(dealt.base, dealt.all_rows)
        works[f"seconds_{count}_adapters"] = partial(_pooled, dealt, engine)
    first = {name: timed(way)[1] for name, way in works.items()}
    times = alternate(works, repeats, first)
    return {name: time.seconds for name, time in times.items()}


def _seen(work: CellWork, drawn: Drawn) -> Seen:
    rows = [tokens for name in work.names for tokens in drawn[name]]
    lengths = [len(tokens) for tokens in rows]
    most = work.settings.max_new_tokens
    longest = [max(len(tokens) for tokens in drawn[name]) for name in work.names]
    decoded = work.base.tokenizer.batch_decode([list(tokens) for tokens in rows])
    marker = work.marker.casefold()
    return Seen(
        tokens=sum(min(n + 1, most) for n in lengths),
        rows=len(rows),
        fired=sum(marker in text.casefold() for text in decoded),
        mean_length=sum(lengths) / len(rows),
        cell_steps=sum(min(n + 1, most) for n in longest),
    )


def _numbers(seen: Seen, seconds: float, memory: int) -> dict[str, float]:
    return {
        "tokens": float(seen.tokens),
        "tokens_per_second": seen.tokens / seconds,
        "firing_rate": seen.rate,
        "mean_length": seen.mean_length,
        "cell_steps": float(seen.cell_steps),
        "peak_memory_bytes": float(memory),
    }


def _title(work: CellWork) -> str:
    base = work.base
    rows = len(work.all_rows)
    return (
        f"{len(work.names)} cells of {len(work.adapters)} adapters, {rows} rows of at most"
        f" {work.settings.max_new_tokens} new tokens, {type(base.model).__name__} of width"
        f" {base.hidden_size} on {base.device} in {str(base.dtype).removeprefix('torch.')},"
        f" {torch.get_num_threads()} threads; differences in nats"
    )
