import fcntl
import sqlite3
import threading

import pytest

from steerproof.board import comments, database, entries
from steerproof.board.comments import CommentError
from steerproof.board.database import open_board, transaction
from steerproof.errors import SteerproofError


@pytest.fixture
def board(tmp_path):
    file = tmp_path / "p.md"
    file.write_text("# A question\ntext")
    entries.propose(file, None, tmp_path / "board")
    return open_board(tmp_path / "board")


def test_an_edit_keeps_what_was_said_before(board):
    one = comments.add(board, 1, "ada", "first")
    assert comments.edit(board, one, "ada", "second", seen=1) == 2
    (found,) = comments.comments(board, 1)
    assert [v.text for v in found.versions] == ["first", "second"]
    assert (found.author, found.text) == ("ada", "second")


def test_comments_on_a_cell_are_its_own(board):
    comments.add(board, 1, "ada", "on the experiment")
    comments.add(board, 1, "ada", "on the cell", cell="A.villain.neutral.none")
    assert [c.text for c in comments.comments(board, 1)] == ["on the experiment"]
    assert comments.counts(board, 1) == {None: 1, "A.villain.neutral.none": 1}


@pytest.mark.parametrize(
    ("author", "text", "seen", "complaint"),
    [("bob", "x", 1, "only its author"), ("ada", " ", 1, "some text"), ("ada", "x", 0, "meanwhile"),
     ("ada", "x" * 20_001, 1, "at most")],
)  # fmt: skip
def test_an_edit_that_is_not_right_is_refused(board, author, text, seen, complaint):
    one = comments.add(board, 1, "ada", "first")
    with pytest.raises(CommentError, match=complaint):
        comments.edit(board, one, author, text, seen)
    assert len(comments.comments(board, 1)[0].versions) == 1


@pytest.mark.parametrize("table", ["comment", "comment_version", "event", "revision"])
@pytest.mark.parametrize("verb", ["DELETE FROM {}", "UPDATE {} SET at = ''"])
def test_the_file_itself_refuses_to_forget(board, table, verb):
    comments.add(board, 1, "ada", "first")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), transaction(board) as db:
        db.execute(verb.format(table))


def test_many_who_comment_at_once_lose_nothing(board):
    people, each = 6, 20
    errors = []

    def write(name):
        try:
            for i in range(each):
                comments.add(board, 1, name, f"{name} {i}")
        except Exception as error:  # noqa: BLE001  shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(f"user{n}",)) for n in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [c.text for c in comments.comments(board, 1)]
    assert errors == []
    assert sorted(found) == sorted(f"user{n} {i}" for n in range(people) for i in range(each))


def test_of_two_edits_of_the_same_version_one_is_told(board):
    one = comments.add(board, 1, "ada", "first")
    comments.edit(board, one, "ada", "here", seen=1)
    with pytest.raises(CommentError, match="meanwhile"):
        comments.edit(board, one, "ada", "there", seen=1)


def test_a_new_board_that_another_process_is_making_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with (tmp_path / f"{database.FILE}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SteerproofError, match="locked by another process"):
            open_board(tmp_path)
        monkeypatch.setattr(database, "BUSY_SECONDS", 10.0)
        threading.Timer(0.2, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        assert open_board(tmp_path).is_file()


def test_two_processes_that_open_a_new_board_at_once_make_one(tmp_path):
    errors = []

    def create():
        try:
            open_board(tmp_path / "new")
        except Exception as error:  # noqa: BLE001  shown below
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
