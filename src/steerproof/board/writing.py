"""A proposal that is written, or edited, in the page."""

import json

from starlette.requests import Request
from starlette.responses import Response

from steerproof.board import entries
from steerproof.board.changes import Act, Fields
from steerproof.board.context import board_of, find_entry, part_of
from steerproof.board.entries import Entry
from steerproof.board.proposals import Proposal, body_of, parse_proposal
from steerproof.board.templating import experiment_address, page
from steerproof.errors import ExperimentError
from steerproof.spec.yaml_io import shipped

_FIELDS = ("title", "text", "kind", "parent", "tags", "experiment")


def new_page(request: Request) -> Response:
    """An empty form."""
    return _form(request, dict.fromkeys(_FIELDS, ""))


def edit_page(request: Request) -> Response:
    """The form with the newest text."""
    board = board_of(request)
    entry = find_entry(board, part_of(request, "number"))
    return _form(request, _given(entry, entries.text_of(board.file, entry.number)), entry)


def propose(act: Act) -> str | Response:
    """Put the proposal on the board; a wrong one comes back with what was typed."""
    try:
        named = act.fields.get("experiment", "")
        if named and named not in shipped():
            raise ExperimentError("choose one of the experiments in the list")
        number = entries.write(act.board.file, _written(act.fields), named or None, act.user)
    except ExperimentError as error:
        return _form(act.request, act.fields, problem=str(error))
    return experiment_address(number)


def revise(act: Act) -> str | Response:
    """Give an entry a new text."""
    entry = act.entry
    try:
        written = _written(act.fields, entry.lineage)
        entries.rewrite(act.board.file, entry.number, written, act.user)
    except ExperimentError as error:
        return _form(act.request, act.fields, entry, str(error))
    return experiment_address(entry.number)


def _form(
    request: Request, given: Fields, entry: Entry | None = None, problem: str | None = None
) -> Response:
    return page(
        request,
        "propose.html",
        200 if problem is None else 409,
        given={name: given.get(name, "") for name in _FIELDS},
        number=None if entry is None else entry.number,
        old_title="" if entry is None else entry.title,
        problem=problem,
        shipped=sorted(shipped()),
    )


def _given(entry: Entry, text: str | None) -> Fields:
    """What the form starts from."""
    return {
        "title": entry.title,
        "text": "" if text is None else body_of(text),
        "kind": entry.kind,
        "parent": "" if entry.parent is None else str(entry.parent),
        "tags": ", ".join(entry.tags),
    }


def _written(fields: Fields, lineage: tuple[int, ...] = ()) -> Proposal:
    """The proposal that the fields make, kept as a file would be: front matter, then the text.

    Raises:
        ExperimentError: It is empty, or a field is wrong.
    """
    text = fields.get("text", "").replace("\r\n", "\n").strip()
    title = " ".join(fields.get("title", "").split())
    if not title:
        return parse_proposal(text)
    values = {
        "title": title,
        "kind": fields.get("kind", "").strip(),
        "parent": fields.get("parent", "").strip(),
        "lineage": lineage,
        "tags": [tag.strip() for tag in fields.get("tags", "").split(",") if tag.strip()],
    }
    # JSON is YAML: whatever is typed stays a text.
    front = "\n".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in values.items()
        if value
    )
    return parse_proposal(f"---\n{front}\n---\n{text}\n")
