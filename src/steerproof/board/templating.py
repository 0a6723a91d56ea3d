"""Templates: autoescaped, and every string made visible before it is escaped."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from steerproof.board import cards, users
from steerproof.board.context import board_of, user_of
from steerproof.decide.report.wording import sentence
from steerproof.text import reveal, span

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Kinds of static files."""


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template with what every page shows: the user, the form token."""
    board = board_of(request)
    cookie = request.cookies.get(board.cookie) or request.cookies.get(visit_cookie(request)) or ""
    html = _environment().get_template(template).render(
        user=user_of(request),
        form=users.form_token(board.secret, cookie),
        here=request.url.path,
        **values,
    )  # fmt: skip
    # Half of a character, which a hostile file may hold, has no bytes.
    return HTMLResponse(html.encode("utf-8", errors="replace"), status_code=status)


def visit_cookie(request: Request) -> str:
    """Name of the cookie that ties the sign-in form to a visitor."""
    return board_of(request).cookie + "-visit"


@cache
def static_files() -> dict[str, tuple[bytes, str, str]]:
    """Content, type and short hash of each static file, by name."""
    found: dict[str, tuple[bytes, str, str]] = {}
    folders = (files("steerproof").joinpath("static"), files("steerproof.board").joinpath("static"))
    for file in (file for folder in folders for file in folder.iterdir()):
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            content = file.read_bytes()
            found[file.name] = (content, _TYPES[suffix], hashlib.sha256(content).hexdigest()[:12])
    return found


def _static_address(name: str) -> str:
    """Address of a static file; it changes with the content, so browsers may keep it for ever."""
    return f"/static/{name}?v={static_files()[name][2]}"


def experiment_address(number: int) -> str:
    """Address of an experiment's page."""
    return f"/experiments/{number}"


def cell_address(number: int, cell: str) -> str:
    """Address of a cell's page."""
    return f"/experiments/{number}/cells/{quote(cell, safe='')}"


def _figure_address(number: int, name: str) -> str:
    """Address of the page of one figure."""
    return f"/experiments/{number}/figures/{quote(name, safe='')}/large"


def highlight(text: str, marker: str) -> Markup:
    """The text, escaped and visible, with every occurrence of the marker marked (any case)."""
    folded, places = _folded(text)
    wanted = marker.casefold()
    html, start, marked = Markup(), 0, folded.find(wanted)
    while marked >= 0:
        begin, end = places[marked], places[marked + len(wanted)]
        html += Markup("{}<mark>{}</mark>").format(
            reveal(text[start:begin]), reveal(text[begin:end])
        )
        start, marked = end, folded.find(wanted, marked + len(wanted))
    return html + Markup("{}").format(reveal(text[start:]))


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """The text without case, and the place in `text` of each of its characters and of its end."""
    folded = text.casefold()
    if len(folded) == len(text):
        return folded, range(len(text) + 1)
    # Some characters fold to two or three (`ß`): count them one by one.
    places = [place for place, one in enumerate(text) for _ in one.casefold()]
    return folded, [*places, len(text)]


def _finalise(value: Any) -> Any:
    return reveal(value) if type(value) is str else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("steerproof.board"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalise,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        static=_static_address,
        experiment_url=experiment_address,
        cell_url=cell_address,
        figure_url=_figure_address,
    )
    environment.filters.update(
        moment=cards.moment,
        since=cards.since,
        span=span,
        highlight=highlight,
        quoted=lambda t: quote(t, ""),
        sentence=sentence,
    )
    return environment
