"""Serve a board: check that it may listen where it is asked to, then take the port."""

import getpass
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from steerproof import programs
from steerproof.board import security, users
from steerproof.board.app import create_app
from steerproof.board.context import Board
from steerproof.board.database import open_board, usable
from steerproof.board.protocol import PatientProtocol
from steerproof.errors import MachineError, SteerproofError

COMMAND = tuple(programs.python("steerproof"))
"""What Plan and Start call."""
_LAST_PORT = 65535
_PATIENCE = 3
"""Seconds that answers in hand are waited for once the end was asked."""
_BACKLOG = 2048
"""Connections that wait to be taken up."""


def serve(
    run_dirs: Sequence[Path],
    board_dir: Path,
    *,
    port: int = 8765,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    announce: Callable[[str], None],
) -> None:
    """Serve until interrupted.

    Args:
        run_dirs: Run directories, or directories of run directories.
        board_dir: Directory of the board's own data: proposals, comments, users.
        port: Port to listen on; 0 takes a free one.
        host: Address to listen on; beyond loopback, users with passwords must exist.
        names: Further names under which the board is reached (`lab.example.org`).
        announce: Told, line by line, what the person at the terminal must know.

    Raises:
        SteerproofError: The address may not be listened on; nothing was opened.
        MachineError: The port is taken.
    """
    file = open_board(board_dir)
    with usable(board_dir):
        check_bind(file, host, names)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    board = make_board(run_dirs, board_dir, port)
    app = create_app(board, security.allowed_for(host, port, names))
    for line in _greeting(board, [*names, host][0], port):
        announce(line)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        lifespan="off", timeout_graceful_shutdown=2 * _PATIENCE, ws="none", http=PatientProtocol,
    )  # fmt: skip
    server = _Server(config)
    board.ending.asked = lambda: server.should_exit
    with listening:
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends when it is told to, whatever a page is still being made of.

    The thread that makes it cannot be interrupted, and would be waited for; what it may be writing
    is a transaction, of which all is kept or nothing.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: go on to the end, by the clock if need be."""
        super().handle_exit(sig, frame)
        if hasattr(signal, "setitimer"):  # Windows has none
            signal.signal(signal.SIGALRM, lambda _signal, _frame: os._exit(0))
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)


def make_board(
    run_dirs: Sequence[Path], board_dir: Path, port: int, command: Sequence[str] = COMMAND
) -> Board:
    """The record of a board that will be served on `port`."""
    file = open_board(board_dir)
    with usable(board_dir):
        secret = users.form_secret(file)
    return Board(
        file=file,
        directory=board_dir.resolve(),
        roots=tuple(Path(os.path.realpath(path)) for path in run_dirs),  # of a loop: itself
        command=tuple(command),
        cookie=f"steerproof-{port}",
        secret=secret,
        one_time=users.OneTime(user=users.owner_name(_login())),
    )


def check_bind(file: Path, host: str, names: Sequence[str]) -> None:
    """Refuse an address that would let strangers in, before the port is taken.

    Raises:
        SteerproofError: Beyond loopback without users, or on every address without names.
    """
    if not security.is_loopback(host) and not users.has_users(file):
        raise SteerproofError(
            f"listening on {host or 'every address'} lets other machines in: create a user first "
            "with 'steerproof add-user NAME'"
        )
    security.allowed_for(host, 0, names)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: whoever is told of it may come at once."""
    if not 0 <= port <= _LAST_PORT:
        raise MachineError(f"port {port} does not exist; choose 1 to {_LAST_PORT}, or 0 for any")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # Two may bind one port, but only one may listen on it: the second is told here.
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise MachineError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
        ) from error
    return listening


def _greeting(board: Board, host: str, port: int) -> list[str]:
    shown = f"[{host}]" if ":" in host else host
    base = f"http://{shown}:{port}"
    return [
        f"Board at {base}/  (reading needs no sign-in)",
        f"Sign in once as {board.one_time.user}: {base}/sign-in#{board.one_time.secret}",
        "Press Ctrl-C to stop; runs that were started from the board go on.",
    ]


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "owner"
