"""What an attacker tried: damaged and hostile runs beside sound ones, floods, halves, bombs."""

import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steerproof.board import cards, completions, database, entries, live, protocol, security, server
from steerproof.board.completions import CellFiles, Filter, UnreadableCellError
from steerproof.errors import MachineError, SteerproofError
from steerproof.run.artefacts import columns
from steerproof.study.readouts.load import text_readout
from tests.board import rig
from tests.board.conftest import until
from tests.board.test_pages import CELL, propose
from tests.board.test_proposals import FRONT


def flip(path, needle, put):
    """Change bytes of a file in place."""
    data = path.read_bytes()
    assert needle in data
    path.write_bytes(data.replace(needle, put))


def lease(run, **fields):
    path = max((run / "lock").glob("lease-*.json"))
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"released": False} | fields))


def other_schema(run):
    for suffix in ("-wal", "-shm"):
        run.joinpath(f"ledger.sqlite{suffix}").unlink(missing_ok=True)
    (run / "ledger.sqlite").unlink()
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("CREATE TABLE attempts (other TEXT)")
    db.close()


def pipe_for(name):
    def put(run):
        (run / name).unlink()
        os.mkfifo(run / name)

    return put


def odd_key(run):
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE attempts SET key = CAST(X'ff80' AS TEXT), state = CAST(X'ff' AS TEXT)")
    db.close()


def edit_lock(run, **scoring):
    path = run / "experiment.lock.json"
    lock = json.loads(path.read_text())
    lock["experiment"]["scoring"] |= scoring
    path.write_text(json.dumps(lock))


DAMAGED = {
    "one bit of the ledger's text": lambda run: flip(run / "ledger.sqlite", b"done", b"d\xefne"),
    "ledger text that is not UTF-8": odd_key,
    "ledger of another schema": other_schema,
    "ledger empty": lambda run: (run / "ledger.sqlite").write_bytes(b""),
    "ledger a pipe": pipe_for("ledger.sqlite"),
    "lease with a text for a pid": lambda run: lease(run, pid="x"),
    "lease with pid -1": lambda run: lease(run, pid=-1),
    "lease with a text for a time": lambda run: lease(run, started="now", taken="now"),
    "lease a copy of a sync tool": lambda run: (run / "lock" / "lease-000001 (1).json").write_text(
        "{}"
    ),
    "title that is half a character": lambda run: flip(
        run / "experiment.lock.json", b'"title": "Does', b'"title": "\\ud800'
    ),
    "verdict nested 200,000 deep": lambda run: (run / "results" / "verdict.json").write_text(
        "[" * 200_000
    ),
    "verdict a pipe": pipe_for("results/verdict.json"),
    "objections a pipe": lambda run: os.mkfifo(run / "results" / "objections.json"),
    "registration a pipe": pipe_for("experiment.lock.json"),
    "results a file": lambda run: (shutil.rmtree(run / "results"), (run / "results").touch()),
    "units a loop of links": lambda run: (
        shutil.rmtree(run / "units"),
        (run / "units").symlink_to("units"),
    ),
    "registration with a pattern that is none": lambda run: edit_lock(run, near_marker="*a"),
    "registration whose arms are others": lambda run: flip(
        run / "experiment.lock.json", b'"name": "A"', b'"name": "B"'
    ),
    "deviations a loop of links": lambda run: (run / "deviations.jsonl").symlink_to(
        "deviations.jsonl"
    ),
    "verdict of another kind": lambda run: (run / "results" / "verdict.json").write_text(
        '{"verdict": ["x"], "arms": 3}'
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_run_beside_sound_ones_breaks_no_page(visitor, judged_run, kind):
    visitor.add(judged_run, "sound")
    DAMAGED[kind](visitor.add(judged_run, "wrong"))
    for address in ("/", "/table", "/compare", "/experiments/1", "/experiments/2"):
        assert visitor.get(address).status_code == 200, address
    assert visitor.get("/").text.count('<li class="card">') == 2


ODD_PLACES = {
    "a name that is not UTF-8": lambda runs, run: run.rename(
        os.fsdecode(os.fsencode(runs) + b"/odd-\xff")
    ),
    "a loop of links": lambda runs, run: (
        shutil.rmtree(run), (runs / "a").symlink_to(runs / "b"), (runs / "b").symlink_to(runs / "a")
    ),
    "a pipe in place of a directory": lambda _, run: (shutil.rmtree(run), os.mkfifo(run)),
    "a file in place of a directory": lambda _, run: (shutil.rmtree(run), run.touch()),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_PLACES)
def test_an_odd_place_among_the_runs_is_passed_over(visitor, judged_run, kind):
    visitor.add(judged_run, "sound")
    ODD_PLACES[kind](visitor.runs, visitor.add(judged_run, "wrong"))
    answer = visitor.get("/")
    assert answer.status_code == 200
    assert answer.text.count('<li class="card">') == 1


AS_NOBODY = """
import os, sys
from pathlib import Path
from steerproof.board import runs
from steerproof.study.readouts import marker  # Python itself may be where nobody may read.

root = Path(sys.argv[1])
os.chdir(root)
if os.geteuid() == 0:  # root may read everything
    os.setegid(65534)
    os.seteuid(65534)
assert not os.access("private/experiment.yaml", os.R_OK, effective_ids=True)
found = [Path(name) for name in ("sound", "private")]
for run in found:
    runs.is_run(run), runs.experiment(run), runs.registration(run), runs.title(run)
print([runs.condition(run).verdict for run in found])
"""


def test_a_private_directory_of_a_colleague_is_no_crash(visitor, judged_run):
    visitor.add(judged_run, "sound")
    private = visitor.add(judged_run, "private")
    for path in (visitor.runs / "sound").rglob("*"):
        path.chmod(0o755)
    (visitor.runs / "sound").chmod(0o755)
    private.chmod(0)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(visitor.runs)], capture_output=True, text=True
    )
    private.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['SUPPORTED', None]"


# Completions that are small on the disk and huge in memory


def bomb(rows):
    """A completions file of so many equal rows."""
    table = pa.table({
        "question": pa.array(np.zeros(rows, np.int32)),
        "sample": pa.array(np.zeros(rows, np.int32)),
        "seed": pa.array(np.zeros(rows, np.int64)),
        "text": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * 1000]),
        "token_ids": pa.array([[]] * 0, pa.list_(pa.int32())) if not rows else
        pa.ListArray.from_arrays(np.zeros(rows + 1, np.int32), pa.array([], pa.int32())),
        "tokens": pa.array(np.zeros(rows, np.int32)),
        "finish": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["eos"]),
    })  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=rows)
    return buffer.getvalue()


def test_a_small_file_of_many_rows_costs_no_memory(tmp_path):
    file = tmp_path / "c.parquet"
    file.write_bytes(bomb(3_000_000))
    assert file.stat().st_size < 500_000
    files = CellFiles(completions=file, scores=None, read=text_readout(rig.tiny_experiment()))
    before = psutil.Process().memory_info().rss  # of the bytes of the file, too
    with pytest.raises(UnreadableCellError, match="3,000,000 rows; at most 1,000,000 are read"):
        completions.read_page(files, "X", Filter(), 0, 20)
    assert psutil.Process().memory_info().rss - before < 50e6


def test_a_cell_of_too_many_rows_is_said_to_be_so(visitor, judged_run, monkeypatch):
    monkeypatch.setattr(columns, "MOST_ROWS", 5)
    visitor.add(judged_run, "one")
    visitor.get("/")
    answer = visitor.get(f"/experiments/1/cells/{CELL}")
    assert answer.status_code == 200
    assert "has 6 rows; at most 5 are read" in answer.text
    assert visitor.get(f"/experiments/1/cells/{CELL}/completions.csv").status_code == 404


def test_a_text_that_many_rows_share_is_held_once(tmp_path):
    rows = [(0, sample, "word " * 60_000) for sample in range(200)]
    (tmp_path / "c.parquet").write_bytes(rig.completions_bytes(rows))
    read = text_readout(rig.tiny_experiment())
    files = CellFiles(completions=tmp_path / "c.parquet", scores=None, read=read)
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        rows = np.array([199])
        shown = next(completions._texts(files.completions, rows))
    finally:
        pa.set_memory_pool(usual)
    assert shown.endswith("… (cut here)")
    assert pool.max_memory() < 10e6  # decoded for every row it would be 60 MB


def test_what_is_no_parquet_file_is_unreadable_not_a_crash(tmp_path):
    (tmp_path / "c.parquet").write_bytes(b"PAR1 nothing PAR1")
    read = text_readout(rig.tiny_experiment())
    files = CellFiles(completions=tmp_path / "c.parquet", scores=None, read=read)
    with pytest.raises(UnreadableCellError):
        completions.read_page(files, "X", Filter(), 0, 20)


def files_of_texts(place, texts):
    """A cell of one completion whose text is what is given."""
    sound = pq.ParquetFile(io.BytesIO(rig.completions_bytes([(0, 0, "a")]))).read()
    at = sound.schema.get_field_index("text")
    pq.write_table(sound.set_column(at, "text", texts), place / "c.parquet")
    read = text_readout(rig.tiny_experiment())
    return CellFiles(completions=place / "c.parquet", scores=None, read=read)


@pytest.mark.parametrize("texts", [pa.array([5]), pa.array([["a"]]), pa.array([None])])
def test_a_column_of_no_texts_is_unreadable(texts, tmp_path):
    with pytest.raises(UnreadableCellError, match=r"c\.parquet has .* in place of texts"):
        completions.read_page(files_of_texts(tmp_path, texts), "X", Filter(), 0, 20)


def test_a_text_that_is_none_is_shown_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(completions, "_read_off", lambda _: (np.array([0.0]),) * 3)
    files = files_of_texts(tmp_path, pa.array([None], pa.string()))
    assert completions.read_page(files, "X", Filter(), 0, 20).rows[0].text == ""


def test_bytes_that_are_no_text_are_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr(completions, "_read_off", lambda _: (np.array([0.0]),) * 3)
    bytes_ = pa.array([b"\xff"], pa.binary()).buffers()[1:]
    files = files_of_texts(tmp_path, pa.Array.from_buffers(pa.string(), 1, [None, *bytes_]))
    assert "not UTF-8" in completions.read_page(files, "X", Filter(), 0, 20).rows[0].text


def test_texts_that_cannot_be_decoded_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(completions, "_read_off", lambda _: (np.array([0.0]),) * 3)
    files = files_of_texts(tmp_path, pa.array(["a"]))

    def refuse(*_):
        raise OSError("Not yet implemented")

    monkeypatch.setattr(completions, "_group_texts", refuse)
    shown = completions.read_page(files, "X", Filter(), 0, 20).rows[0].text
    assert shown == "(no text: Not yet implemented)"


@pytest.mark.parametrize("time", [1e18, -1e18, float("inf"), float("nan")])
def test_a_time_that_is_no_date_breaks_no_page(time):
    assert cards.moment(time) == "no date"


# Connections


def test_streams_that_are_opened_at_once_do_not_pass_the_limit(served, monkeypatch):
    monkeypatch.setattr(live, "MOST_STREAMS", 8)
    opened = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(40)]
    request = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    for one in opened:
        one.sendall(request)
    said = []
    for one in opened:
        one.settimeout(10)
        said.append(one.recv(12)[9:12])
    assert (said.count(b"200"), said.count(b"503")) == (8, 32)
    for one in opened:
        one.close()
    until(lambda: not live._streams)
    with socket.create_connection(("127.0.0.1", served.port)) as one:
        one.sendall(request)
        assert one.recv(12)[9:12] == b"200"


HALVES = {
    "nothing": b"",
    "half a line": b"GET / HT",
    "half a head": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half a body": b"POST /sign-in HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\nab",
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.5)


def test_half_a_request_is_dropped_in_time_and_a_whole_one_is_not(quick, served):
    host = f"127.0.0.1:{served.port}".encode()
    halves = [data.replace(b"{host}", host) for data in HALVES.values()]
    opened = [socket.create_connection(("127.0.0.1", served.port)) for _ in halves]
    for one, data in zip(opened, halves, strict=True):
        one.sendall(data)
    stream = socket.create_connection(("127.0.0.1", served.port))
    stream.sendall(b"GET /events HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    for one in opened:
        one.settimeout(5)
        with one, suppress(ConnectionResetError):
            while one.recv(4096):
                pass
    time.sleep(0.7)
    stream.settimeout(5)
    assert stream.recv(15).startswith(b"HTTP/1.1 200")
    assert not ended(stream)
    stream.close()


def ended(connection):
    """Whether the other side has closed."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    return True


def test_a_trickle_does_not_hold_a_connection_open(quick, served):
    with socket.create_connection(("127.0.0.1", served.port)) as one:
        one.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < 5:
                one.sendall(b"a: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began < 3


def test_what_is_not_http_is_refused_with_every_header(served):
    with socket.create_connection(("127.0.0.1", served.port)) as one:
        one.sendall(b"nonsense\r\n\r\n")
        one.settimeout(5)
        answer = b""
        while data := one.recv(4096):
            answer += data
    head = answer.decode().lower()
    assert head.startswith("http/1.1 400")
    for name, value in security.HEADERS.items():
        assert f"{name}: {value.lower()}" in head


def test_a_second_board_on_a_port_says_so_before_it_announces(tmp_path):
    first = server._listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    told = []
    with first, pytest.raises(MachineError, match="--port"):
        server.serve([tmp_path], tmp_path / "b", port=port, announce=told.append)
    assert told == []


def test_whoever_is_told_of_the_board_may_come_at_once():
    with server._listen("127.0.0.1", 0) as listening:
        socket.create_connection(listening.getsockname(), timeout=5).close()


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_does_not_exist_is_a_sentence(tmp_path, port):
    with pytest.raises(MachineError, match="does not exist"):
        server.serve([tmp_path], tmp_path / "b", port=port, announce=print)


# The board's own file


def test_a_board_file_that_is_locked_says_busy_and_reads_on(visitor, judged_run, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    visitor.add(judged_run, "one")
    visitor.get("/")
    visitor.sign_in()
    holding = sqlite3.connect(visitor.board.file, isolation_level=None)
    holding.execute("BEGIN IMMEDIATE")
    answer = visitor.post("/experiments/1/comments", text="x")
    assert answer.status_code == 503
    assert "Nothing was changed" in answer.text
    assert visitor.get("/experiments/1").status_code == 200
    holding.execute("ROLLBACK")
    holding.close()
    assert visitor.post("/experiments/1/comments", text="x").status_code == 303


@pytest.mark.parametrize(
    ("column", "value"),
    [("lineage", "x"), ("lineage", "5"), ("tags", "[[]]"), ("directory", b"\xff"), ("held", "x")],
)
def test_a_row_that_the_board_never_writes_is_damage_of_its_file(visitor, column, value, tmp_path):
    propose(visitor, FRONT, "zlt")
    with database.transaction(visitor.board.file) as db:
        db.execute(f"UPDATE entry SET {column} = ?", (value,))
    for address in ("/", "/table", "/experiments/7"):
        answer = visitor.get(address)
        assert (answer.status_code, "own file is damaged" in answer.text) == (503, True), address
    visitor.board.file.rename(tmp_path / "b.sqlite")  # a revision would write the row anew
    with pytest.raises(SteerproofError, match="cannot be kept"), database.usable(tmp_path):
        entries.entry(tmp_path / "b.sqlite", 7)


def test_an_entry_joined_to_none_is_shown_as_its_own(visitor):
    propose(visitor, FRONT, "zlt")
    with database.connect(visitor.board.file) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("UPDATE entry SET joined = 77")
    assert visitor.get("/experiments/7").status_code == 200


def test_a_board_whose_secret_is_none_does_not_start(visitor):
    with database.transaction(visitor.board.file) as db:
        db.execute("UPDATE secret SET value = 'text'")
    with pytest.raises(SteerproofError, match="the secret of its forms is none"):
        server.make_board([], visitor.board.file.parent, 1)


def test_a_board_file_that_is_damaged_while_it_is_served_says_so(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.get("/")
    for suffix in ("-wal", "-shm"):
        visitor.board.file.with_name(f"board.sqlite{suffix}").unlink(missing_ok=True)
    visitor.board.file.write_bytes(b"SQLite format 3\x00" + b"\xff" * 9000)
    answer = visitor.get("/experiments/1")
    assert answer.status_code == 503
    assert "The board's own file is damaged: " in answer.text


def test_a_time_that_somebody_put_into_the_boards_file_breaks_no_page(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.get("/")
    with sqlite3.connect(visitor.board.file) as db:
        db.execute("UPDATE entry SET created = '{{ x }}'")
        db.execute("DROP TRIGGER event_no_update")
        db.execute("UPDATE event SET at = '[null]'")
    db.close()
    assert [visitor.get(at).status_code for at in ("/", "/table", "/experiments/1")] == [200] * 3


@pytest.mark.parametrize(("text", "status"), [("6162", 200), ("ff", 503)])
def test_bytes_that_somebody_put_into_the_boards_file_break_no_page(visitor, text, status):
    number = propose(visitor, FRONT, "zlt").number
    with sqlite3.connect(visitor.board.file) as db:
        db.execute("DROP TRIGGER revision_no_update")
        db.execute(f"UPDATE revision SET text = X'{text}'")
    db.close()
    assert visitor.get(f"/experiments/{number}").status_code == status


PLACES = {
    "a file": lambda place: place.write_text("x"),
    "a file in the way": lambda place: (place.mkdir(), (place / "board.sqlite").mkdir()),
    "no database": lambda place: (
        place.mkdir(), (place / "board.sqlite").write_bytes(b"not a database" * 999)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLACES)
def test_a_place_that_cannot_hold_the_board_is_a_sentence(tmp_path, kind):
    PLACES[kind](tmp_path / "board")
    with pytest.raises(SteerproofError, match="--board-dir"):
        database.open_board(tmp_path / "board")


def test_a_board_of_the_first_version_is_brought_up_to_date(tmp_path):
    place = tmp_path / "board"
    place.mkdir()
    with sqlite3.connect(place / "board.sqlite") as db:
        db.executescript(database._SCHEMA)
        db.execute(
            "INSERT INTO entry (number, title, kind, created) VALUES (3, 'old', 'x', '2026')"
        )
        db.execute("PRAGMA user_version = 1")
    db.close()
    file = database.open_board(place)
    assert [e.title for e in entries.entries(file)] == ["old"]
    assert database.open_board(place) == file
    with database.connect(file) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(SteerproofError, match="version 99"):
        database.open_board(place)


# Starts and proposals


def test_a_start_that_is_refused_pins_no_directory(visitor, monkeypatch):
    monkeypatch.setenv(rig.PLAN, "still planning")
    propose(visitor, FRONT, "zlt")
    visitor.sign_in()
    visitor.post("/experiments/7/plan")
    assert visitor.post("/experiments/7/start", hours="1").status_code == 409
    assert entries.entry(visitor.board.file, 7).directory is None
    assert visitor.post("/experiments/7/attach", experiment="zlt-tiny").status_code in (303, 409)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join([f'*{b}'] * 9)}]\n" for b, n in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "an alias bomb": f"---\n{BOMB}---\ntext",
    "five thousand digits": f"---\nnumber: {'9' * 5000}\n---\n# x",
    "five thousand digits as text": f"---\nparent: '{'9' * 5000}'\n---\n# x",
    "nesting": f"---\ntags: {'[' * 5000}\n---\n# x",
    "half a character": '---\ntitle: "\\ud800"\n---\nx',
    "a page without a title": "EPS\n#342Proposed\n",
    "an empty title": "---\ntitle: ''\n---\nx",
    "an experiment of 5000 letters": f"---\ntitle: x\nexperiment: {'e' * 5000}\n---\nx",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_proposal_is_refused_in_a_sentence_and_in_time(visitor, kind):
    began = time.monotonic()
    with pytest.raises(SteerproofError):
        propose(visitor, HOSTILE[kind])
    assert time.monotonic() - began < 5
    assert entries.entries(visitor.board.file) == ()


def test_a_long_proposal_is_rendered_once(visitor, monkeypatch):
    propose(visitor, "# Long\n" + "word *and* `code` [x](y)\n\n" * 4000)
    began = time.monotonic()
    visitor.get("/experiments/1")
    first = time.monotonic() - began
    began = time.monotonic()
    visitor.get("/experiments/1")
    assert time.monotonic() - began < max(0.05, first / 3)
