"""Live pages: a stream that says *something changed*; the page then asks for its parts again.

The stream carries no content, so a page is always what a fresh load would show, and a server that
was restarted in between needs to remember nothing.
"""

import hashlib
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from anyio import sleep, to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from steerproof.board import entries, jobs, runs
from steerproof.board.context import Board, board_of, find_entry, refresh

POLL_SECONDS = 1.0
BEAT_SECONDS = 15.0
BUSY_SECONDS = 2
"""While a job goes on its page is brought up to date this often."""
_LONGEST_SECONDS = 600.0
"""A stream ends after this long; the browser opens the next one by itself."""
MOST_STREAMS = 64
_MOST_FELT = 4096

_streams: set[object] = set()


@dataclass(frozen=True, slots=True)
class _Felt:
    """A pulse that was felt, and until when it is believed."""

    until: float
    """On the monotonic clock."""
    stamp: tuple[object, ...]
    """Of the board's file."""
    value: str


_felt: dict[tuple[Path, int | None], _Felt] = {}
_feeling = threading.Lock()


def pulse(board: Board, number: int | None = None) -> str:
    """A short text that changes whenever the experiment (or any, for none) does.

    What is written to the board's own file is seen at once. Run directories are looked at once in
    `board.patience` seconds, however many pages are open, and where looking is slow, less often.
    """
    known = fresh_pulse(board, number)
    if known is not None:
        return known
    with _feeling:
        known = fresh_pulse(board, number)
        if known is not None:
            return known
        began = time.monotonic()
        stamp = _board_stamp(board)
        value = _pulse(board, number, stamp)
        took = time.monotonic() - began
        # Finding a new run writes to the board's file, so its stamp is asked for again.
        until = time.monotonic() + max(board.patience, 5 * took if board.patience else 0.0)
        if len(_felt) > _MOST_FELT:
            _felt.clear()
        _felt[board.file, number] = _Felt(until, _board_stamp(board), value)
    return value


def fresh_pulse(board: Board, number: int | None) -> str | None:
    """The pulse as it was last felt, if it may still be believed; costs two `stat` calls."""
    known = _felt.get((board.file, number))
    if known is None or time.monotonic() >= known.until or known.stamp != _board_stamp(board):
        return None
    return known.value


async def stream(request: Request) -> Response:
    """Server-sent events for one experiment's page, or for the list."""
    board = board_of(request)
    number = request.path_params.get("number")
    if number is not None:
        await to_thread.run_sync(find_entry, board, number)
    # Counted before anything is awaited: streams that are opened at once do not pass the limit.
    if len(_streams) >= MOST_STREAMS:
        return PlainTextResponse("too many pages are open", status_code=503)
    seen = request.query_params.get("seen", "")
    return _Stream(_events(request, board, number, seen), media_type="text/event-stream")


class _Stream(StreamingResponse):
    """A stream that counts from the moment when it is granted until it ends, however it ends."""

    def __init__(self, content: AsyncIterator[str], media_type: str) -> None:
        super().__init__(content, media_type=media_type)
        _streams.add(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            _streams.discard(self)


async def _events(
    request: Request, board: Board, number: int | None, seen: str
) -> AsyncIterator[str]:
    started = beat = time.monotonic()
    yield "retry: 2000\n\n"
    while time.monotonic() - started < _LONGEST_SECONDS and not board.ending.asked():
        if await request.is_disconnected():
            return
        value = await to_thread.run_sync(pulse, board, number)
        if value != seen:
            seen = value
            yield f"event: change\ndata: {value}\n\n"
        elif time.monotonic() - beat > BEAT_SECONDS:
            beat = time.monotonic()
            yield ": still here\n\n"
        await sleep(POLL_SECONDS)


def _board_stamp(board: Board) -> tuple[object, ...]:
    return (runs.stamp(board.file), runs.stamp(f"{board.file}-wal"))


def _pulse(board: Board, number: int | None, stamp: tuple[object, ...]) -> str:
    if number is None:
        refresh(board)
        listed = entries.entries(board.file)
        working = jobs.all_jobs(board.file)
    else:
        listed = (find_entry(board, number),)
        working = {listed[0].number: jobs.jobs(board.file, listed[0].number)}
    parts: list[object] = [stamp]
    for entry in listed:
        mine = [job for job in working.get(entry.number, ()) if job.alive]
        place = entry.directory
        parts.append((entry.number, place and runs.fingerprint(place), [job.id for job in mine]))
        if mine:  # its log grows, and how long it has been at it is shown
            parts.append(int(time.time()) // BUSY_SECONDS)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
