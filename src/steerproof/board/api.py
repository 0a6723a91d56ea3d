"""The read-only JSON API: what the pages say, for scripts, with a token.

Every answer is an object; times are ISO 8601 in UTC; what is not known is null.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steerproof.board import approvals, cards, entries, plans, recipe, tokens
from steerproof.board.cards import Card
from steerproof.board.cell_rates import cell_rates
from steerproof.board.context import (
    NotFoundError,
    board_of,
    find_entry,
    locked_by,
    part_of,
    refresh,
    run_of,
)
from steerproof.codec import plain

VERSION = 1
Answer = Callable[[Request], Response]


def with_token(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """A route that needs `Authorization: Bearer TOKEN`."""

    def answered(request: Request) -> Response:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not tokens.owner(board_of(request).file, secret.strip()):
            return _json(
                {"error": "send a token of this board: Authorization: Bearer TOKEN"},
                401,
                {"www-authenticate": "Bearer"},
            )
        try:
            return answer(request)
        except NotFoundError as error:
            return _json({"error": str(error)}, 404)

    async def route(request: Request) -> Response:
        return await to_thread.run_sync(answered, request)

    return route


def experiments(request: Request) -> Response:
    """`/api/experiments`: every entry, newest number first."""
    board = board_of(request)
    refresh(board)
    return _json({"version": VERSION, "experiments": [_short(c) for c in cards.all_cards(board)]})


def experiment(request: Request) -> Response:
    """`/api/experiments/N`: one entry with its texts, run, verdict, plan and what people say."""
    board = board_of(request)
    entry = find_entry(board, part_of(request, "number"))
    card = cards.card(board, entry)
    run = run_of(entry)
    return _json({
        "version": VERSION,
        **_short(card),
        "proposal": entries.text_of(board.file, entry.number),
        "units": dict(card.condition.states) if card.condition else {},
        "experiment": None if run is None else run.experiment.model_dump(mode="json"),
        "verdict": plain(card.head),
        "opinions": plain(approvals.opinions(board.file, entry.number)),
        "approvals": plain(approvals.approvals(board.file, entry.number)),
        "plans": [
            {"at": p.at, "who": p.who, "facts": dict(p.facts), "objections": plain(p.objections)}
            for p in plans.plans_of(board, entry)
        ],
    })  # fmt: skip


def cells(request: Request) -> Response:
    """`/api/experiments/N/cells`: state and counts of every cell of the run."""
    run = run_of(find_entry(board_of(request), part_of(request, "number")))
    if run is None:
        raise NotFoundError("The experiment has no run yet.")
    rates = cell_rates(run.directory, run.cells, run.experiment)
    listed = [
        {**cell.record(), "name": name, "state": rates[name].state,
         "fired": rates[name].fired, "total": rates[name].total}
        for name, cell in run.cells.items()
    ]  # fmt: skip
    return _json({"version": VERSION, "cells": listed})


def _short(card: Card) -> Mapping[str, Any]:
    entry, head, locked = card.entry, card.head, locked_by(card.entry)
    return {
        "number": entry.number,
        "title": entry.title,
        "kind": entry.kind,
        "parent": entry.parent,
        "lineage": list(entry.lineage),
        "tags": list(entry.tags),
        "status": card.status,
        "note": card.note,
        "changed": datetime.fromtimestamp(card.changed, UTC).isoformat(timespec="seconds"),
        "model": None if locked is None else recipe.model(locked),
        "seeds": None if locked is None else list(locked.seeds or (locked.seed,)),
        "answers": None if head is None else {
            "registered": head.verdict,
            "ranking": head.answers.ranking.answer or None,
            "direction": head.answers.direction.reads or None,
            "carries": head.answers.direction.carries or None,
            "rho": head.tested.rho,
            "interval": head.tested.interval and list(head.tested.interval),
        },
    }  # fmt: skip


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII, so that half of a character, which a hostile file may hold, has bytes.
    body = json.dumps(value, allow_nan=False).encode()
    return Response(body, status, headers, media_type=JSONResponse.media_type)
