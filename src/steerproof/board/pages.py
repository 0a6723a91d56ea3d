"""The pages that are read: the list, an experiment, a cell, a comparison. GET changes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from steerproof.board import (
    approvals,
    cards,
    comments,
    comparing,
    completions,
    downloads,
    entries,
    listing,
    live,
    plans,
    views,
)
from steerproof.board.cards import Query
from steerproof.board.cell_rates import cell_rates
from steerproof.board.completions import CellFiles, Filter, Page
from steerproof.board.context import (
    EntryRun,
    NotFoundError,
    board_of,
    find_entry,
    part_of,
    refresh,
    run_of,
)
from steerproof.board.entries import Entry
from steerproof.board.templating import page, static_files
from steerproof.spec.yaml_io import shipped
from steerproof.study.readouts.load import text_readout

_PER_PAGE = 20
"""Completions on a page."""


def list_page(request: Request) -> HTMLResponse:
    """All experiments, in columns by status."""
    board = board_of(request)
    refresh(board)
    pulse = live.pulse(board)
    every = cards.all_cards(board)
    asked = request.query_params
    parent = asked.get("parent", "").removeprefix("#")
    query = Query(
        text=asked.get("text", "")[:200],
        kind=asked.get("kind", ""),
        tag=asked.get("tag", ""),
        parent=int(parent) if parent.isascii() and parent.isdigit() else None,
    )
    shown = [card for card in every if cards.matches(card.entry, query)]
    everything = [card.entry for card in every]
    return page(
        request,
        "experiments.html",
        columns=cards.columns(shown),
        query=query,
        total=len(everything),
        shown=len(shown),
        kinds=sorted({e.kind for e in everything}),
        tags=sorted({tag for e in everything for tag in e.tags}),
        parents=sorted({n for e in everything for n in (e.parent, *e.lineage) if n}),
        pulse=pulse,
    )


def experiment_page(request: Request) -> HTMLResponse:
    """One experiment, from proposal to verdict."""
    board = board_of(request)
    pulse = live.pulse(board, part_of(request, "number"))
    entry = find_entry(board, part_of(request, "number"))
    everything = entries.entries(board.file)
    known = {e.number: e for e in everything}
    run = run_of(entry)
    texts = entries.texts_of(board.file, entry.number)
    results = views.results(run)
    return page(
        request,
        "experiment.html",
        card=cards.card(board, entry),
        proposal=views.proposal(texts[0][1], known) if texts else None,
        earlier=texts[1:],
        known=known,
        children=cards.children(everything, entry.number),
        run=run,
        results=results,
        # Once the report has drawn them, its own figure shows the losses.
        training=None if "losses.svg" in results.figures else views.training(run),
        story=views.timeline(board, entry),
        plan=plans.plan_of(board, entry),
        plans=plans.plans_of(board, entry),
        caps=approvals.approvals(board.file, entry.number),
        used=views.device_hours(entry),
        opinions=approvals.opinions(board.file, entry.number),
        log=views.job_log(board, entry),
        registration=views.registration(entry),
        comments=views.comments(board, entry.number, None, known),
        counts=comments.counts(board.file, entry.number),
        shipped=sorted(shipped()),
        pulse=pulse,
    )


def cell_page(request: Request) -> HTMLResponse:
    """Completions of one cell, beside another cell's if asked."""
    board = board_of(request)
    run, name = _cell(request)
    asked = request.query_params
    read = text_readout(run.experiment)
    chosen, offset = _filter(request), _whole(asked.get("from")) or 0
    problem, shown, finishes = None, None, {}
    try:
        files = completions.files_of(run.directory, name, read)
        if files is not None:
            shown = completions.read_page(files, name, chosen, offset, _PER_PAGE)
            finishes = completions.finishes(files, name)
    except completions.UnreadableCellError as error:
        problem = str(error)
    beside = asked.get("beside", "")
    known = {e.number: e for e in entries.entries(board.file)}
    rates = cell_rates(run.directory, run.cells, run.experiment)
    return page(
        request,
        "cell.html",
        entry=run.entry,
        run=run,
        cell=run.cells[name],
        square=views.square(name, rates[name]),
        rate=rates[name],
        problem=problem,
        shown=shown,
        finishes=finishes,
        chosen=chosen,
        offset=offset,
        per_page=_PER_PAGE,
        link=_page_link(request),
        beside=beside if beside in run.cells else "",
        other=_beside(run, beside, shown),
        comparable=[cell for cell, rate in rates.items() if rate.rate is not None and cell != name],
        neighbours=views.neighbours(list(run.cells), name),
        comments=views.comments(board, run.entry.number, name, known),
        pulse=live.pulse(board, run.entry.number),
    )


def table_page(request: Request) -> HTMLResponse:
    """Every run as a row, sorted by the column that is asked for."""
    board = board_of(request)
    refresh(board)
    pulse = live.pulse(board)
    asked = request.query_params
    column = asked.get("sort", "number")
    column = column if column in listing.COLUMNS else "number"
    down = asked.get("order", "down" if column == "number" else "up") == "down"
    query = Query(text=asked.get("text", "")[:200])
    every = [card for card in cards.all_cards(board) if cards.matches(card.entry, query)]
    rows = listing.ordered(listing.rows(every), column, down=down)
    return page(
        request,
        "table.html",
        rows=rows,
        columns={name: heading for name, (heading, _) in listing.COLUMNS.items()},
        sort=column,
        down=down,
        query=query,
        pulse=pulse,
    )


def compare_page(request: Request) -> HTMLResponse:
    """Two arms, of one experiment or of two, on the same axes."""
    board = board_of(request)
    refresh(board)
    asked = request.query_params
    choices = comparing.arm_choices(board)
    left, right = asked.get("left", ""), asked.get("right", "")
    sides = [comparing.side(board, choices[c]) for c in (left, right) if c in choices]
    kinds = comparing.shared_kinds(sides)
    kind = asked.get("kind", "")
    kind = kind if kind in kinds else comparing.usual_kind(kinds)
    compared = comparing.compare(sides, kinds[kind]) if len(sides) == 2 and kind else None
    return page(
        request,
        "compare.html",
        choices=choices,
        left=left if left in choices else "",
        right=right if right in choices else "",
        kinds=kinds,
        kind=kind,
        asked=kinds.get(kind, ("", "")),
        sides=sides,
        compared=compared,
        pulse=live.pulse(board),
    )


def download(request: Request) -> Response:
    """A file of the fixed list."""
    board = board_of(request)
    entry = find_entry(board, part_of(request, "number"))
    name = part_of(request, "name")
    listed = downloads.find(entry.directory, name) if entry.directory else None
    if listed is None:
        raise NotFoundError(f"Experiment #{entry.number} has no such file.")
    path, kind = listed
    headers = {"content-disposition": f'attachment; filename="{entry.number}-{name}"'}
    body = downloads.safe_csv(path) if kind == "text/csv" else _chunks(path)
    return StreamingResponse(body, media_type=kind, headers=headers)


def figure(request: Request) -> Response:
    """A figure of the results, looked up by name; only ever shown as an image."""
    entry, drawings, name = _figure(request)
    headers = {"content-disposition": f'attachment; filename="{entry.number}.svg"'}
    return Response(drawings[name].read_bytes(), media_type="image/svg+xml", headers=headers)


def figure_page(request: Request) -> HTMLResponse:
    """A figure as large as the window, with the ones before and after it."""
    entry, drawn, name = _figure(request)
    return page(
        request,
        "figure.html",
        entry=entry,
        name=name,
        titles=downloads.figure_titles(entry.directory) if entry.directory else {},
        neighbours=views.neighbours(list(drawn), name),
    )


def completions_csv(request: Request) -> Response:
    """All completions of a cell as CSV that no spreadsheet runs."""
    run, name = _cell(request)
    read = text_readout(run.experiment)
    try:
        files = completions.files_of(run.directory, name, read)
        if files is not None:
            completions.finishes(files, name)  # read before the first line is sent
    except completions.UnreadableCellError as error:
        raise NotFoundError(str(error)) from error
    if files is None:
        raise NotFoundError("This cell has no completions yet.")
    headers = {"content-disposition": f'attachment; filename="{run.entry.number}-completions.csv"'}
    body = downloads.completions_csv(files, name)
    return StreamingResponse(body, media_type="text/csv", headers=headers)


def static(request: Request) -> Response:
    """A file of our own; its address holds its hash, so it may be kept."""
    file = static_files().get(part_of(request, "name"))
    if file is None:
        raise NotFoundError("There is no such file.")
    content, kind, version = file
    fresh = request.query_params.get("v") == version
    kept = "public, max-age=31536000, immutable" if fresh else "no-cache"
    return Response(content, media_type=kind, headers={"cache-control": kept})


def _cell(request: Request) -> tuple[EntryRun, str]:
    run = run_of(find_entry(board_of(request), part_of(request, "number")))
    name = part_of(request, "cell")
    if run is None or name not in run.cells:
        raise NotFoundError("The experiment has no such cell.")
    return run, name


def _figure(request: Request) -> tuple[Entry, dict[str, Path], str]:
    """The entry, its figures, and the name of the one that is asked for."""
    entry = find_entry(board_of(request), part_of(request, "number"))
    drawings = downloads.figures(entry.directory) if entry.directory else {}
    name = part_of(request, "name")
    if name not in drawings:
        raise NotFoundError(f"Experiment #{entry.number} has no such figure.")
    return entry, drawings, name


def _filter(request: Request) -> Filter:
    asked = request.query_params
    fired = {"yes": True, "no": False}.get(asked.get("fired", ""))
    finish = asked.get("finish", "")
    return Filter(
        fired=fired,
        finish=finish if finish in ("eos", "length") else None,
        question=_whole(asked.get("question")),
        least_tokens=_whole(asked.get("tokens")),
    )


def _beside(run: EntryRun, other: str, shown: Page | None) -> dict | None:
    """The same questions and samples in another cell."""
    if other not in run.cells or shown is None:
        return None
    read = text_readout(run.experiment)
    try:
        files: CellFiles | None = completions.files_of(run.directory, other, read)
        wanted = [(row.question, row.sample) for row in shown.rows]
        rows = {} if files is None else completions.read_rows(files, other, wanted)
    except completions.UnreadableCellError:
        return None
    return None if files is None else rows


def _page_link(request: Request) -> Callable[[int], str]:
    given = {k: v for k, v in request.query_params.items() if k != "from" and v}

    def link(offset: int) -> str:
        return "?" + urlencode({**given, "from": offset})

    return link


def _whole(text: str | None) -> int | None:
    """A number from an address; anything else is as if it were not given."""
    fits = text is not None and text.isascii() and text.isdigit() and len(text) <= 9
    return int(text) if fits and text is not None else None


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 16):
            yield chunk
