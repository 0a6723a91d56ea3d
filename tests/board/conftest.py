"""Boards to talk to: in this process for speed, on a port for the browser."""

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import uvicorn
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from steerproof.board import security, users
from steerproof.board.app import create_app
from steerproof.board.context import Board
from steerproof.board.protocol import PatientProtocol
from steerproof.board.server import make_board
from tests.board import rig

ROOT = Path(__file__).parents[2]
FAKE = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.board.rig import main; "
    "sys.exit(main(sys.argv[1:]))",
)
"""In place of the command line: the rig as a program."""
PORT = 8765
HERE = f"http://127.0.0.1:{PORT}"
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch):
    """Argon2 as in use, but for its cost."""
    quick = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(users, "_hasher", quick)
    monkeypatch.setattr(users, "_dummy_hash", [])


@pytest.fixture(scope="session")
def judged_run(tmp_path_factory) -> Path:
    """A finished run directory; copy it to change it."""
    return rig.finished_run(tmp_path_factory.mktemp("judged") / "tiny", rig.tiny_experiment())


@dataclass
class Visitor:
    """Somebody at a board in this process."""

    board: Board
    client: TestClient
    runs: Path

    def get(self, address: str, **more):
        return self.client.get(address, **more)

    def post(self, address: str, headers: dict | None = None, **fields):
        """Send a form as the board's own page would."""
        cookie = self.client.cookies.get(self.board.cookie) or ""
        fields.setdefault("form", users.form_token(self.board.secret, cookie))
        own = {"origin": HERE, "sec-fetch-site": "same-origin", **(headers or {})}
        return self.client.post(address, data=fields, headers=own, follow_redirects=False)

    def sign_in(self, name: str = "ada") -> None:
        token = users.open_session(self.board.file, name)
        self.client.cookies.set(self.board.cookie, token, domain="127.0.0.1", path="/")

    def add(self, source: Path, name: str) -> Path:
        """A copy of a run directory among the board's."""
        return Path(shutil.copytree(source, self.runs / name))


@pytest.fixture
def visitor(tmp_path) -> Iterator[Visitor]:
    """An empty board, nobody signed in."""
    runs = tmp_path / "runs"
    runs.mkdir()
    board = replace(make_board([runs], tmp_path / "board", PORT, command=FAKE), patience=0.0)
    app = create_app(board, security.allowed_for("127.0.0.1", PORT))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield Visitor(board=board, client=client, runs=runs)


@dataclass
class Served:
    """A board on a real port, that can be stopped and started again."""

    runs: Path
    directory: Path
    command: tuple[str, ...] = FAKE
    port: int = 0
    board: Board = field(init=False)
    _server: uvicorn.Server = field(init=False)
    _thread: threading.Thread = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self.board = make_board([self.runs], self.directory, self.port, command=self.command)
        app = create_app(self.board, security.allowed_for("127.0.0.1", self.port))
        config = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=3,
            ws="none",
            http=PatientProtocol,
        )
        self._server = server = uvicorn.Server(config)
        self.board.ending.asked = lambda: server.should_exit
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def served(tmp_path) -> Iterator[Served]:
    """A board on a free port."""
    (tmp_path / "runs").mkdir()
    one = Served(runs=tmp_path / "runs", directory=tmp_path / "board")
    one.start()
    yield one
    one.stop()


def until(true, seconds: float = 20.0):
    """Wait for something to become true; return it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.05)
    return value


FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic",
)  # fmt: skip


def chromium() -> str | None:
    """A system Chromium, or the one that STEERPROOF_CHROMIUM names."""
    named = os.environ.get("STEERPROOF_CHROMIUM")
    return (
        named
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; in CI its absence is a failure.

    It is closed with its module: another cannot be driven from the same process before.
    """
    path = chromium()
    if path is None:
        lack = "no Chromium: install one or set STEERPROOF_CHROMIUM to its path"
        if os.environ.get("CI"):
            pytest.fail(lack)
        pytest.skip(lack)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield one
        one.close()
