"""The commands of the board: a proposal, the page, its users."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from steerproof.cli.output import Json, needing, say
from steerproof.surroundings import require_addresses, require_threads
from steerproof.text import clean

_THREADS = 42
"""The server answers in up to forty at once, and looks at the runs in others."""


def propose(
    file: Annotated[Path, typer.Argument(help="Markdown with front matter, or a proposal's text.")],
    experiment: Annotated[str | None, typer.Option(help="Its experiment file or name.")] = None,
    board_dir: Annotated[Path, typer.Option(help="The board's own data.")] = Path("board"),
    as_json: Json = False,
) -> None:
    """Put a proposal on the board."""
    with needing("board"):
        from steerproof.board.entries import propose as put

    entry = put(file, experiment, board_dir)
    text = f"#{entry.number} {entry.title}: proposed. See it with: steerproof board runs"
    say(entry, as_json, lambda: clean(text))


def board(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run directories, or their parents.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    host: Annotated[str, typer.Option(help="Address; beyond loopback users must exist.")] = (
        "127.0.0.1"
    ),
    name: Annotated[list[str] | None, typer.Option(help="Another name of this host.")] = None,
    board_dir: Annotated[Path, typer.Option(help="The board's own data.")] = Path("board"),
) -> None:
    """The web page over run directories, on loopback."""
    require_addresses("the board")
    require_threads("the board", _THREADS)
    with needing("board"):
        from steerproof.board.server import serve

    for number in (signal.SIGINT, signal.SIGTERM):  # the usual end of a server is no interruption
        signal.signal(number, lambda _signal, _frame: sys.exit(0))
    serve(
        runs or [Path("runs")],
        board_dir,
        port=port,
        host=host,
        names=name or (),
        announce=lambda line: print(clean(line), flush=True),
    )


def add_user(
    name: str,
    board_dir: Annotated[Path, typer.Option(help="The board's own data.")] = Path("board"),
) -> None:
    """Create a user of the board, or give one a new password."""
    with needing("board"):
        from steerproof.board.users import add_user as add

    password = typer.prompt("password", hide_input=True, confirmation_prompt=True)
    add(board_dir, name, password)
    say(None, False, lambda: f"user {name} may sign in")


def remove_user(
    name: str,
    board_dir: Annotated[Path, typer.Option(help="The board's own data.")] = Path("board"),
) -> None:
    """Remove a user of the board.

    Sessions and tokens end, what they wrote stays.
    """
    with needing("board"):
        from steerproof.board.users import remove_user as remove

    remove(board_dir, name)
    say(None, False, lambda: f"user {clean(name)} may no longer sign in")
