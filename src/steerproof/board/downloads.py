"""Files that people take away: a fixed list, looked up, never a path from the address."""

import csv
import html
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from steerproof.board import completions, runs
from steerproof.board.completions import CellFiles
from steerproof.text import neutralise_csv

FILES = {
    "rates.csv": ("results/rates.csv", "text/csv"),
    "estimates.json": ("results/estimates.json", "application/json"),
    "verdict.json": ("results/verdict.json", "application/json"),
    "report.html": ("results/report.html", "application/octet-stream"),
    "experiment.yaml": ("experiment.yaml", "application/yaml"),
    "registration.json": ("experiment.lock.json", "application/json"),
    "deviations.jsonl": ("deviations.jsonl", "application/jsonl"),
}
"""Place in the run directory and type of each download, by name."""

_PIECE = 1 << 16
"""Characters of a CSV file that are sent at once."""
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,300})</title>")
_FIRST = ("matrix", "dose", "estimates", "ranking")
_HEADER = (
    "cell", "question", "sample", "fired", "near", "finish", "tokens", "repetition", "text",
)  # fmt: skip


def available(run: Path) -> dict[str, int]:
    """Size of each download that exists, by name."""
    return {
        name: path.stat().st_size
        for name, (place, _) in FILES.items()
        if (path := _inside(run, run / place)) is not None
    }


def find(run: Path, name: str) -> tuple[Path, str] | None:
    """Path and type of a download; none if it is not in the list or not there."""
    if name not in FILES:
        return None
    place, kind = FILES[name]
    path = _inside(run, run / place)
    return None if path is None else (path, kind)


def figures(run: Path) -> dict[str, Path]:
    """The run's figures by file name, those that carry the verdict first."""
    paths = sorted(
        (run / "results" / "figures").glob("*.svg"),
        key=lambda path: (
            _FIRST.index(path.stem) if path.stem in _FIRST else len(_FIRST),
            path.name,
        ),
    )
    return {path.name: path for path in paths if _inside(run, path) is not None}


def figure_titles(run: Path) -> dict[str, str]:
    """What each figure shows, by file name: its own title, or its name in words."""
    return {name: _title(path) for name, path in figures(run).items()}


def _title(path: Path) -> str:
    words = path.stem.replace("_", " ").replace("-", " ").capitalize()
    try:
        with path.open("rb") as file:
            start = file.read(4096).decode("utf-8", errors="replace")
    except OSError:
        return words
    match = _TITLE.search(start)
    return html.unescape(match[1]) if match else words


def safe_csv(path: Path) -> Iterator[str]:
    """A CSV file line by line, with every field neutralised."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from _lines(csv.reader(file))


def completions_csv(files: CellFiles, cell: str) -> Iterator[str]:
    """All completions of a cell as neutralised CSV, a row at a time."""
    rows = (
        (cell, row.question, row.sample, row.fired, row.near, row.finish, row.tokens,
         "" if row.repetition is None else row.repetition, row.text)
        for row in completions.all_rows(files, cell)
    )  # fmt: skip
    yield from _lines(chain([_HEADER], rows))


def _lines(rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """The rows in pieces of some size: each piece costs a change of threads."""
    piece = io.StringIO()
    write = csv.writer(piece, lineterminator="\r\n").writerow
    for row in rows:
        write(neutralise_csv(str(value)) for value in row)
        if piece.tell() > _PIECE:
            yield piece.getvalue()
            piece.seek(0)
            piece.truncate()
    yield piece.getvalue()


def _inside(run: Path, path: Path) -> Path | None:
    """The file, unless it is missing or a link that leads out of the run directory."""
    real = runs.resolved(path)
    inside = real is not None and real.is_file() and real.is_relative_to(run.resolve())
    return real if inside else None
