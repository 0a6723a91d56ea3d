"""How anything is changed: by a form of our own page, from somebody who is signed in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from steerproof.board import users
from steerproof.board.context import Board, board_of, find_entry, part_of, user_of
from steerproof.board.entries import Entry
from steerproof.errors import SteerproofError

_LONGEST_BODY = 200_000
"""Largest form, in bytes."""
_FORM = "application/x-www-form-urlencoded"

Fields = dict[str, str]


class RefusedError(Exception):
    """A change that is refused: a status and a sentence for the person who asked."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A change that somebody asks for, checked: signed in, with the right form token."""

    board: Board
    user: str
    fields: Fields
    request: Request

    @property
    def entry(self) -> Entry:
        """The experiment in the address."""
        return find_entry(self.board, part_of(self.request, "number"))


Change = Callable[[Act], str | Response]


def acting(change: Change) -> Callable[[Request], Awaitable[Response]]:
    """A route for a change: `change` does it and returns the address to go on to.

    Where it returns a page instead, that is shown: a form with what was typed and what is wrong.
    """

    async def route(request: Request) -> Response:
        fields = await fields_of(request)
        return await to_thread.run_sync(partial(_act, request, fields))

    def _act(request: Request, fields: Fields) -> Response:
        board, user = board_of(request), user_of(request)
        if user is None:
            raise RefusedError(403, "Sign in to change something on the board.")
        cookie = request.cookies.get(board.cookie, "")
        if not users.right_token(board.secret, cookie, fields.get("form", "")):
            raise RefusedError(403, "The form is out of date: load the page again.")
        try:
            answer = change(Act(board=board, user=user, fields=fields, request=request))
        except SteerproofError as error:
            raise RefusedError(409, str(error)) from error
        return RedirectResponse(answer, 303) if isinstance(answer, str) else answer

    return route


async def fields_of(request: Request) -> Fields:
    """The form's fields.

    Raises:
        RefusedError: It is no form, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise RefusedError(415, "Only forms are accepted here.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise RefusedError(413, f"A form has at most {_LONGEST_BODY} bytes.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError:
        raise RefusedError(400, "The form cannot be read.") from None
    return dict(pairs)
