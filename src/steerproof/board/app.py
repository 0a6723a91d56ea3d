"""The board as an ASGI application: routes, errors, and the guard around all of it."""

import sqlite3

from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from steerproof.board import actions, api, live, pages, writing
from steerproof.board.changes import RefusedError, acting
from steerproof.board.context import Board, NotFoundError
from steerproof.board.kept import kept
from steerproof.board.security import Allowed, guard
from steerproof.board.templating import page


class Number(IntegerConvertor):
    """An experiment's number in an address: plain digits, no sign, no zeros before it."""

    regex = "[1-9][0-9]{0,5}"


register_url_convertor("number", Number())

_POST = ("POST",)
_ONE = "/experiments/{number:number}"
_CELL = _ONE + "/cells/{cell}"


def create_app(board: Board, allowed: Allowed) -> ASGIApp:
    """The board's application, guarded."""
    app = Starlette(
        routes=[*_reading(), *_changing(), *_for_scripts()],
        exception_handlers={
            NotFoundError: _not_found,
            RefusedError: _refused,
            HTTPException: _http_error,
            sqlite3.DatabaseError: _unusable,
            Exception: _broken,
        },
    )
    app.state.board = board
    return guard(app, allowed)


def _reading() -> list[Route]:
    return [
        Route("/", kept(pages.list_page, ages=True)),
        Route("/events", live.stream),
        Route("/table", kept(pages.table_page, ages=True)),
        Route("/compare", kept(pages.compare_page)),
        Route("/sign-in", actions.sign_in_page),
        Route("/tokens", actions.tokens_page),
        Route("/propose", writing.new_page),
        Route("/static/{name}", pages.static),
        Route(_ONE, kept(pages.experiment_page)),
        Route(f"{_ONE}/events", live.stream),
        Route(f"{_ONE}/files/{{name}}", pages.download),
        Route(f"{_ONE}/figures/{{name}}", pages.figure),
        Route(f"{_ONE}/figures/{{name}}/large", pages.figure_page),
        Route(f"{_ONE}/edit", writing.edit_page),
        Route(_CELL, kept(pages.cell_page)),
        Route(f"{_CELL}/completions.csv", pages.completions_csv),
    ]


def _changing() -> list[Route]:
    changes = {
        "/sign-out": actions.sign_out,
        "/proposals": writing.propose,
        f"{_ONE}/proposal": writing.revise,
        f"{_ONE}/plan": actions.plan,
        f"{_ONE}/start": actions.start,
        f"{_ONE}/approve": actions.approve,
        f"{_ONE}/stop": actions.stop,
        f"{_ONE}/hold": actions.hold,
        f"{_ONE}/opinions": actions.think,
        "/tokens": actions.make_token,
        "/tokens/{token:number}/revoke": actions.revoke_token,
        f"{_ONE}/archive": actions.archive,
        f"{_ONE}/attach": actions.attach,
        f"{_ONE}/comments": actions.comment,
        f"{_ONE}/comments/{{comment:number}}": actions.edit_comment,
    }
    routes = [Route(path, acting(change), methods=_POST) for path, change in changes.items()]
    return [Route("/sign-in", actions.sign_in, methods=_POST), *routes]


def _for_scripts() -> list[Route]:
    answers = {
        "/api/experiments": api.experiments,
        f"/api{_ONE}": api.experiment,
        f"/api{_ONE}/cells": api.cells,
        f"/api{_ONE}/files/{{name}}": pages.download,
    }
    return [Route(path, api.with_token(answer)) for path, answer in answers.items()]


def _not_found(request: Request, error: Exception) -> Response:
    return page(request, "error.html", 404, title="Not found", text=str(error))


def _refused(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RefusedError) else 403
    return page(request, "error.html", status, title="Not done", text=str(error))


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    texts = {404: "There is no such page.", 405: "This address is not used that way."}
    return page(
        request, "error.html", status, title="Not found" if status == 404 else "Not done",
        text=texts.get(status, "The board could not answer this."),
    )  # fmt: skip


def _unusable(request: Request, error: Exception) -> Response:
    """Another process holds the board's file for longer than anybody should, or it is damaged."""
    if "locked" in str(error):
        text = (
            "Another process is writing the board's file. Nothing was changed: go back and try"
            " again."
        )
        return page(request, "error.html", 503, title="Busy", text=text)
    # As plain text: the page's own head asks the file who is signed in.
    text = (
        f"The board's own file is damaged: {error}. No run is touched by that: put a copy of"
        " board.sqlite back, or start the board with another --board-dir."
    )
    return PlainTextResponse(text, status_code=503)


def _broken(request: Request, error: Exception) -> Response:
    del error  # the server's log has it; the page must not
    text = "The board failed to show this page. Its terminal says why."
    return page(request, "error.html", 500, title="Something broke", text=text)
