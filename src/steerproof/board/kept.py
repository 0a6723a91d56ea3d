"""Pages are made once for what they show, and kept until something that they show changes.

What a page shows is named by a short text: the pulse of the board or of one experiment. A page for
nobody in particular is the same for everybody who reads without signing in; whoever is signed in
gets a page of their own, made anew.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from steerproof.board import live
from steerproof.board.context import board_of

MOST_BYTES = 48 << 20
"""All pages that are kept."""
AGE_SECONDS = 20
"""A page that says how long ago something was is made anew after this long."""

Key = tuple[str, str, str, int]
"""Address, query, pulse, and the time in steps of `AGE_SECONDS`."""


@dataclass(slots=True)
class Kept:
    """Pages by what they show; the ones that were asked for longest ago go first."""

    pages: OrderedDict[Key, bytes] = field(default_factory=OrderedDict)
    size: int = 0
    making: dict[Key, asyncio.Lock] = field(default_factory=dict)

    def find(self, key: Key) -> bytes | None:
        """The page, if it is kept."""
        page = self.pages.get(key)
        if page is not None:
            self.pages.move_to_end(key)
        return page

    def keep(self, key: Key, page: bytes) -> None:
        """Keep a page, and let go of others if there is no room."""
        if key in self.pages or len(page) > MOST_BYTES // 8:
            return
        self.pages[key] = page
        self.size += len(page)
        while self.size > MOST_BYTES:
            _, gone = self.pages.popitem(last=False)
            self.size -= len(gone)


Maker = Callable[[Request], Response]
_kept = Kept()


def kept(make: Maker, *, ages: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """A route for a page that is kept.

    Args:
        make: Makes the page, in a thread.
        ages: Whether the page says how long ago something was.
    """

    async def route(request: Request) -> Response:
        board = board_of(request)
        if request.cookies.get(board.cookie):
            return await to_thread.run_sync(make, request)
        number = request.path_params.get("number")
        pulse = live.fresh_pulse(board, number)
        if pulse is None:
            pulse = await to_thread.run_sync(live.pulse, board, number)
        step = int(time.time()) // AGE_SECONDS if ages else 0
        key = (f"{board.file}{request.url.path}", request.url.query, pulse, step)
        page = _kept.find(key)
        return HTMLResponse(page) if page is not None else await _made(key, make, request)

    return route


async def _made(key: Key, make: Maker, request: Request) -> Response:
    """Make a page; whoever asks for the same one meanwhile waits for it."""
    lock = _kept.making.setdefault(key, asyncio.Lock())
    try:
        async with lock:
            page = _kept.find(key)
            if page is not None:
                return HTMLResponse(page)
            answer = await to_thread.run_sync(make, request)
            if answer.status_code == 200:
                _kept.keep(key, bytes(answer.body))
            return answer
    finally:
        if not lock.locked():
            _kept.making.pop(key, None)
