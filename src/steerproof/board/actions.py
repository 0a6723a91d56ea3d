"""What signed-in people can change. Every form carries a token; every answer is a redirect."""

import re
from functools import partial
from pathlib import Path

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from steerproof.board import approvals, cards, comments, entries, jobs, tokens, users
from steerproof.board.brake import BusyError, SignInError, known_browser, recognise
from steerproof.board.changes import Act, Fields, RefusedError, fields_of
from steerproof.board.context import (
    Board,
    NotFoundError,
    board_of,
    part_of,
    run_of,
    user_of,
)
from steerproof.board.entries import Entry
from steerproof.board.templating import cell_address, experiment_address, page, visit_cookie
from steerproof.spec.yaml_io import shipped

HELD = {"": "taken up again", "on_hold": "put on hold", "cancelled": "cancelled"}
"""What happens to an entry that is given each of these states."""
_BROWSER_SECONDS = 365 * 24 * 3600.0
"""A browser that signed in once is known this long; see `brake`."""


def plan(act: Act) -> str:
    """Run `plan` in the background."""
    entry = _ready(act)
    directory = _directory(act.board, entry)
    words = (*act.board.command, "plan", _experiment(entry), "--dir", str(directory), "--json")
    return _begin(act, entry, "plan", words)


def start(act: Act) -> str:
    """Run `run` in the background under the cap that was approved; starting again resumes."""
    entry = _ready(act)
    _approve(act, entry)
    allowed = next(iter(approvals.approvals(act.board.file, entry.number)), None)
    if allowed is None:
        raise RefusedError(409, "Approve it first: say how many device hours it may take.")
    directory = _directory(act.board, entry)
    words = (
        *act.board.command, "run", _experiment(entry), "--dir", str(directory),
        "--device-hours", repr(allowed.hours),
    )  # fmt: skip
    address = _begin(act, entry, "run", words)
    # Only now: a start that is refused leaves the entry free to be given another experiment.
    entries.update(act.board.file, entry.number, directory=str(directory))
    return address


def approve(act: Act) -> str:
    """Allow so many device hours, without starting."""
    entry = act.entry
    if not act.fields.get("hours", "").strip():
        raise RefusedError(409, "Say how many device hours it may take.")
    _approve(act, entry)
    return experiment_address(entry.number)


def _approve(act: Act, entry: Entry) -> None:
    """Record a cap, if one was given that is not the one that holds already."""
    given = act.fields.get("hours", "").strip()
    known = next(iter(approvals.approvals(act.board.file, entry.number)), None)
    if not given or (known is not None and given == f"{known.hours:g}"):
        return
    made = approvals.approve(act.board.file, entry.number, act.user, given)
    detail = f"at most {made.hours:g} device hours"
    entries.record(act.board.file, entry.number, "approved", act.user, detail)


def hold(act: Act) -> str:
    """Put an experiment on hold, cancel it, or take it up again; nothing is deleted."""
    entry, state = act.entry, act.fields.get("state", "")
    if state not in HELD:
        raise RefusedError(409, "Choose on hold, cancelled, or neither.")
    status = cards.card(act.board, entry).status
    if state and status not in ("proposed", "planned", "on_hold", "cancelled"):
        raise RefusedError(409, f"It is {status}: only what has not been judged can wait or end.")
    entries.update(act.board.file, entry.number, held=state)
    reason = " ".join(act.fields.get("reason", "").split())[:500]
    entries.record(act.board.file, entry.number, HELD[state], act.user, reason)
    return experiment_address(entry.number)


def think(act: Act) -> str:
    """Say how sure one is of the verdict; the verdict stays what it is."""
    entry = act.entry
    if not cards.card(act.board, entry).answers:
        raise RefusedError(409, "There is no verdict yet.")
    confidence = act.fields.get("confidence", "").strip()
    note = act.fields.get("note", "")
    approvals.think(act.board.file, entry.number, act.user, confidence, note)
    said = f"{confidence}% sure of the verdict"
    entries.record(act.board.file, entry.number, "opinion", act.user, said)
    return f"{experiment_address(entry.number)}#opinions"


def tokens_page(request: Request) -> Response:
    """One's own tokens of the API."""
    return _tokens(request, user_of(request))


def make_token(act: Act) -> Response:
    """Make a token; the page that answers shows it this once."""
    made = tokens.create(act.board.file, act.user, act.fields.get("name", ""))
    return _tokens(act.request, act.user, made)


def revoke_token(act: Act) -> str:
    """End a token."""
    tokens.revoke(act.board.file, act.user, part_of(act.request, "token"))
    return "/tokens"


def _tokens(request: Request, user: str | None, made: str | None = None) -> Response:
    listed = () if user is None else tokens.tokens(board_of(request).file, user)
    return page(request, "tokens.html", tokens=listed, made=made)


def stop(act: Act) -> str:
    """Ask the background job to stop."""
    entry = act.entry
    job = jobs.stop(act.board.file, entry.number)
    entries.record(act.board.file, entry.number, f"{job.kind} asked to stop", act.user)
    return experiment_address(entry.number)


def archive(act: Act) -> str:
    """Put an experiment away, or bring it back; nothing is deleted."""
    entry = act.entry
    away = act.fields.get("away") == "yes"
    if away and cards.card(act.board, entry).status == "running":
        raise RefusedError(409, "It is running: stop it first.")
    entries.update(act.board.file, entry.number, archived=int(away))
    entries.record(act.board.file, entry.number, "archived" if away else "restored", act.user)
    return experiment_address(entry.number)


def attach(act: Act) -> str:
    """Give a proposal one of the shipped experiments; looked up by name, never a path."""
    entry, name = act.entry, act.fields.get("experiment", "")
    if name not in shipped():
        raise RefusedError(409, "Choose one of the experiments in the list.")
    if entry.directory is not None:
        raise RefusedError(409, "It has a run directory already; its experiment is fixed.")
    entries.update(act.board.file, entry.number, experiment=name)
    entries.record(act.board.file, entry.number, "experiment attached", act.user, name)
    return experiment_address(entry.number)


def comment(act: Act) -> str:
    """Comment on an experiment, or on one of its cells."""
    entry, cell = act.entry, act.fields.get("cell") or None
    if cell is not None:
        run = run_of(entry)
        if run is None or cell not in run.cells:
            raise NotFoundError("The experiment has no such cell.")
    new = comments.add(act.board.file, entry.number, act.user, act.fields.get("text", ""), cell)
    return _place(entry.number, cell, new)


def edit_comment(act: Act) -> str:
    """Append a new version to one's own comment."""
    entry, which = act.entry, part_of(act.request, "comment")
    file = act.board.file
    cells = comments.counts(file, entry.number)
    listed = {c.id: c for cell in cells for c in comments.comments(file, entry.number, cell)}
    if which not in listed:
        raise NotFoundError("The experiment has no such comment.")
    seen = act.fields.get("version", "")
    version = int(seen) if seen.isascii() and seen.isdigit() and len(seen) < 6 else 0
    comments.edit(file, which, act.user, act.fields.get("text", ""), version)
    return _place(entry.number, listed[which].cell, which)


def sign_in_page(request: Request) -> Response:
    """The sign-in form; a visitor's cookie ties the form to the browser."""
    return _sign_in_form(request, None, 200)


async def sign_in(request: Request) -> Response:
    """Sign in with name and password, or with the one-time code."""
    fields = await fields_of(request)
    return await to_thread.run_sync(partial(_sign_in, request, fields))


def sign_out(act: Act) -> str:
    """End the session."""
    users.close_session(act.board.file, act.request.cookies.get(act.board.cookie, ""))
    return "/"


def _sign_in(request: Request, fields: Fields) -> Response:
    board = board_of(request)
    visit = request.cookies.get(visit_cookie(request), "")
    cookie = request.cookies.get(board.cookie) or visit
    if not cookie or not users.right_token(board.secret, cookie, fields.get("form", "")):
        return _sign_in_form(request, "The form is out of date: try again.", 403)
    try:
        name = _who(request, fields)
    except BusyError as error:
        return _sign_in_form(request, str(error), 503)
    except SignInError as error:
        return _sign_in_form(request, str(error), 403)
    if old := request.cookies.get(board.cookie):
        users.close_session(board.file, old)
    answer = RedirectResponse(_local(fields.get("next", "")), status_code=303)
    _set_cookie(answer, board.cookie, users.open_session(board.file, name), users.SESSION_SECONDS)
    token = known_browser(board.secret, name)
    _set_cookie(answer, _browser_cookie(board), token, _BROWSER_SECONDS)
    answer.delete_cookie(visit_cookie(request))
    return answer


def _browser_cookie(board: Board) -> str:
    return f"{board.cookie}-browser"


def _who(request: Request, fields: Fields) -> str:
    board = board_of(request)
    if code := fields.get("code", "").strip():
        user = board.one_time.redeem(code)
        if user is None:
            raise SignInError("This link was used already, or is of an earlier start.")
        return user
    name = fields.get("name", "").strip().lower()[:64]
    browser = recognise(board.secret, name, request.cookies.get(_browser_cookie(board)))
    address = request.client.host if request.client else ""
    with board.brake.trying(name, address, browser) as one:
        one.right = users.check_password(board.file, name, fields.get("password", ""))
    if not one.right:
        raise SignInError("The name or the password is wrong.")
    return name


def _sign_in_form(request: Request, problem: str | None, status: int) -> Response:
    name = visit_cookie(request)
    token = request.cookies[name] = request.cookies.get(name) or users.new_token()
    onward = _local(request.query_params.get("next", ""))
    users_exist = users.has_users(board_of(request).file)
    answer = page(request, "sign_in.html", status, problem=problem, next=onward, users=users_exist)
    _set_cookie(answer, name, token, 3600.0)
    return answer


def _set_cookie(answer: Response, name: str, value: str, seconds: float) -> None:
    answer.set_cookie(name, value, max_age=int(seconds), httponly=True, samesite="strict", path="/")


def _local(address: str) -> str:
    """An address of the board to go on to; anything else becomes the list."""
    plain = re.fullmatch(r"/(?![/\\])[\w/.=+%?&-]*", address)
    return address if plain and len(address) < 500 else "/"


def _ready(act: Act) -> Entry:
    entry = act.entry
    if entry.experiment is None:
        raise RefusedError(409, "Attach an experiment file first.")
    if entry.archived:
        raise RefusedError(409, "It is archived: restore it first.")
    if entry.held:
        words = entry.held.replace("_", " ")
        raise RefusedError(409, f"It is {words}: take it up again first.")
    if cards.card(act.board, entry).status == "running":
        raise RefusedError(409, f"#{entry.number} is running already.")
    return entry


def _experiment(entry: Entry) -> str:
    return entry.experiment or ""


def _directory(board: Board, entry: Entry) -> Path:
    """The entry's run directory, or where its first run will be."""
    if entry.directory is not None:
        return entry.directory
    slug = re.sub(r"[^a-z0-9]+", "-", Path(_experiment(entry)).stem.lower()).strip("-")[:40]
    return board.new_runs / f"{entry.number:04d}-{slug or 'run'}"


def _begin(act: Act, entry: Entry, kind: str, words: tuple[str, ...]) -> str:
    order = jobs.JobOrder(number=entry.number, kind=kind, who=act.user, words=words)
    jobs.start(act.board.file, act.board.logs, order)
    what = {"plan": "planned", "run": "started"}[kind]
    entries.record(act.board.file, entry.number, what, act.user)
    return experiment_address(entry.number)


def _place(number: int, cell: str | None, new: int) -> str:
    page_address = experiment_address(number) if cell is None else cell_address(number, cell)
    return f"{page_address}#comment-{new}"
