"""What every page needs: where the board's data are, what it may run, who is asking."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request

from steerproof.board import entries, joining, runs, users
from steerproof.board.brake import Brake
from steerproof.board.entries import Entry
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell, cells


class NotFoundError(Exception):
    """There is nothing of that number or name; ids are looked up, never made into paths."""


@dataclass(slots=True)
class Ending:
    """How an open stream learns that the server is asked to end."""

    asked: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board while it is served."""

    file: Path
    """Its SQLite file."""
    directory: Path
    """Directory of that file and of the logs of jobs."""
    roots: tuple[Path, ...]
    """Run directories, or directories of run directories."""
    command: tuple[str, ...]
    """The command line that Plan and Start call, without a shell."""
    cookie: str
    """Name of the session cookie; cookies know no ports, so it carries ours."""
    secret: bytes
    """Key of the form tokens."""
    one_time: users.OneTime
    """The link printed at start."""
    brake: Brake = field(default_factory=Brake)
    """Wrong passwords so far."""
    patience: float = 0.5
    """Seconds for which what was seen of run directories is believed."""
    ending: Ending = field(default_factory=Ending)
    """Set by the server."""

    @property
    def logs(self) -> Path:
        """Output of the jobs."""
        return self.directory / "jobs"

    @property
    def new_runs(self) -> Path:
        """Where new run directories are made: the first root that is not one itself."""
        collections = [root for root in self.roots if not runs.is_run(root)]
        return collections[0].resolve() if collections else self.directory / "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRun:
    """An entry's run directory with its locked experiment."""

    entry: Entry
    directory: Path
    experiment: Experiment
    cells: dict[str, Cell]
    """By name, in the order of the experiment."""


def board_of(request: Request) -> Board:
    """The board that serves this request."""
    return request.app.state.board


def user_of(request: Request) -> str | None:
    """Who is signed in."""
    board = board_of(request)
    return users.session_user(board.file, request.cookies.get(board.cookie))


def part_of(request: Request, name: str) -> Any:
    """A part of the address, as its route converts it."""
    return request.path_params[name]


def find_entry(board: Board, number: int) -> Entry:
    """The entry of this number.

    Raises:
        NotFoundError: There is none.
    """
    try:
        return entries.entry(board.file, number)
    except (KeyError, OverflowError):
        raise NotFoundError(f"There is no experiment #{number} on this board.") from None


def locked_by(entry: Entry) -> Experiment | None:
    """The experiment that the entry's run has locked; none yet."""
    return None if entry.directory is None else runs.experiment(entry.directory)


def run_of(entry: Entry) -> EntryRun | None:
    """The entry's run, once its experiment is locked."""
    experiment = locked_by(entry)
    if experiment is None or entry.directory is None:
        return None
    named = {cell.name: cell for cell in cells(experiment)}
    return EntryRun(entry=entry, directory=entry.directory, experiment=experiment, cells=named)


def refresh(board: Board) -> None:
    """Give new run directories their entry."""
    joining.take_in(board.file, runs.discover((*board.roots, board.new_runs)))
