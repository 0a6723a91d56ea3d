"""Live pages: a stream that says *something changed*; the page then asks for its parts again.

The stream carries no content, so a page is always what a fresh load would show, and a server that
was restarted in between needs to remember nothing.
"""

import hashlib
import threading
import time
from collections.abc import AsyncIterator

from anyio import sleep, to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from steerproof.board import cards
from steerproof.board.context import Board, board_of, find_entry, refresh
from steerproof.board.database import connect

POLL_SECONDS = 1.0
BEAT_SECONDS = 15.0
BUSY_SECONDS = 2
"""While a job goes on its page is brought up to date this often."""
LONGEST_SECONDS = 600.0
"""A stream ends after this long; the browser opens the next one by itself."""
MOST_STREAMS = 64

_streams: set[object] = set()
_shared: dict[tuple[str, int | None], tuple[float, str]] = {}
_shared_lock = threading.Lock()


def pulse(board: Board, number: int | None = None) -> str:
    """A short text that changes whenever the experiment (or any, for none) does.

    Computed at most once in half a `POLL_SECONDS`, however many pages are open.
    """
    key = (str(board.file), number)
    with _shared_lock:
        known = _shared.get(key)
        if known is not None and time.monotonic() - known[0] < POLL_SECONDS / 2:
            return known[1]
        value = _pulse(board, number)
        _shared[key] = (time.monotonic(), value)
    return value


async def stream(request: Request) -> Response:
    """Server-sent events for one experiment's page, or for the list."""
    board = board_of(request)
    number = request.path_params.get("number")
    if number is not None:
        await to_thread.run_sync(find_entry, board, number)
    if len(_streams) >= MOST_STREAMS:
        return PlainTextResponse("too many pages are open", status_code=503)
    seen = request.query_params.get("seen", "")
    return StreamingResponse(_events(request, board, number, seen), media_type="text/event-stream")


async def _events(
    request: Request, board: Board, number: int | None, seen: str
) -> AsyncIterator[str]:
    mine = object()
    _streams.add(mine)
    started = beat = time.monotonic()
    try:
        yield "retry: 2000\n\n"
        while time.monotonic() - started < LONGEST_SECONDS and not board.ending.asked():
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
    finally:
        _streams.discard(mine)


def _pulse(board: Board, number: int | None) -> str:
    if number is None:
        refresh(board)
        listed = cards.all_cards(board)
    else:
        listed = [cards.card(board, find_entry(board, number))]
    parts: list[object] = []
    for card in listed:
        stamps = card.condition.stamps if card.condition else ()
        alive = [(job.id, job.alive, job.code) for job in card.jobs]
        if card.busy is not None:  # its log grows, and how long it has been at it is shown
            alive.append((card.busy.id, True, int(time.time()) // BUSY_SECONDS))
        parts.append((card.entry.number, card.status, card.note, stamps, alive))
    with connect(board.file) as db:
        for table in ("event", "comment", "comment_version", "revision"):
            parts.append(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
