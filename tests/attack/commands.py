"""Commands and pages in a copy of this process: how each ended, what it said, how long it took.

Everything is imported once; each damaged input gets a fork, and a wait without end ends with it.
"""

import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.testclient import TestClient

from steerproof import cli
from steerproof.board import security
from steerproof.board.app import create_app
from steerproof.board.server import make_board
from steerproof.errors import SteerproofError

CODES = {0, 2, 3, 4, 5, 6, 7}
"""What a command may end with, if nobody interrupts it."""
STATUSES = {200, 303, 400, 401, 404, 503}
"""What a page may answer, whatever the run directories hold."""
SECONDS = 90.0
"""Longest wait for all commands of a try; the slowest honest ones take ten on a busy machine."""
PORT = 8765


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One command, or one page of the board."""

    asked: tuple[str, ...]
    code: int | None
    """Exit code or status of the answer; None if it did not end."""
    said: str
    seconds: float

    @property
    def foreseen(self) -> bool:
        """It ended, with a code of the contract, and showed no traceback."""
        allowed = STATUSES if self.asked[0].startswith("/") else CODES
        return self.code in allowed and "Traceback (most recent" not in self.said


Doing = Callable[[], Iterator[Ended]]


class _Stream(io.TextIOWrapper):
    """What a program is given to write to: it has a name and a mode, as real ones have."""

    @property
    def name(self) -> str:
        return "said"

    @property
    def mode(self) -> str:
        return "w"


def command(*words: object) -> Ended:
    """A command in this process, as its program would run it."""
    said, began = io.BytesIO(), time.monotonic()
    out = _Stream(said, encoding="utf-8", write_through=True)
    err = _Stream(said, "utf-8", errors="backslashreplace", write_through=True)
    asked = tuple(str(word) for word in words)
    before, sys.argv = sys.argv, ["steerproof", *asked]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001  whatever it is, it is what is looked for
            traceback.print_exc()
            code = 1
    sys.argv = before
    out.flush()
    text = said.getvalue().decode()
    return Ended(asked=asked, code=code, said=text, seconds=time.monotonic() - began)


def done(expected: int, *words: object) -> None:
    """Do a command that ends with an exit code, or say what it said instead."""
    ended = command(*words)
    assert ended.code == expected, ended.said


def pages(runs: Path, addresses: Sequence[str]) -> Iterator[Ended]:
    """Pages of a new board over run directories."""
    try:
        board = make_board([runs], runs.parent / "board", PORT)
    except SteerproofError as error:  # as the command `board` says it
        yield Ended(asked=("board",), code=error.exit_code, said=str(error), seconds=0.0)
        return
    app = create_app(board, security.allowed_for("127.0.0.1", PORT))
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False)
    with client:
        for address in addresses:
            began = time.monotonic()
            try:
                answer = client.get(address)
                code, said = answer.status_code, answer.text[:2000]
            except BaseException:  # noqa: BLE001  whatever it is, it is what is looked for
                code, said = 500, traceback.format_exc()
            took = time.monotonic() - began
            yield Ended(asked=(address,), code=code, said=said, seconds=took)


def in_a_fork(doing: Doing, seconds: float = SECONDS) -> list[Ended]:
    """What commands did in a copy of this process, ended when one of them goes on too long.

    Args:
        doing: Yields each command as it has ended.
        seconds: Longest time for all of them.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # newer Pythons warn of threads, of which the copy uses none
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reading)
        _tell(doing, writing)
    os.close(writing)
    ended, deadline = _told(reading, time.monotonic() + seconds)
    if not deadline:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        how = "went on without end" if not deadline else f"the process ended with {code}"
        asked = ("after", *(ended[-1].asked if ended else ("nothing",)))
        ended.append(Ended(asked=asked, code=None, said=how, seconds=seconds))
    return ended


def _tell(doing: Doing, writing: int) -> None:
    """In the child: do it, write each end as a line, and leave without any clean-up."""
    code = 1
    try:
        os.setsid()
        warnings.simplefilter("default")
        for one in doing():
            line = json.dumps(asdict(one)).encode() + b"\n"
            while line:
                line = line[os.write(writing, line) :]
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, it is what is looked for
        traceback.print_exc()
    finally:
        os._exit(code)


def _told(reading: int, deadline: float) -> tuple[list[Ended], bool]:
    """Lines until the child closes its end, and whether it did in time."""
    data = b""
    os.set_blocking(reading, False)
    in_time = False
    while time.monotonic() < deadline:
        try:
            part = os.read(reading, 1 << 16)
        except BlockingIOError:
            time.sleep(0.002)
            continue
        if not part:
            in_time = True
            break
        data += part
    os.close(reading)
    whole = [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
    return [Ended(**{**one, "asked": tuple(one["asked"])}) for one in whole], in_time
