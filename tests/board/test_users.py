import re
import sqlite3
import threading

import pytest

from steerproof.board import brake, users
from steerproof.board.database import connect
from steerproof.errors import SteerproofError
from tests.board.conftest import HERE, PASSWORD


def ask(visitor, **fields):
    """Sign in as the page does: its cookie, its token."""
    page = visitor.get("/sign-in")
    token = re.search(r'name="form" value="([0-9a-f]+)"', page.text)[1]
    headers = {"origin": HERE}
    data = {"form": token, "next": "/", **fields}
    return visitor.client.post("/sign-in", data=data, headers=headers, follow_redirects=False)


def test_a_user_signs_in_with_a_password_and_out_again(visitor):
    users.add_user(visitor.board.directory, "ada", PASSWORD)
    answer = ask(visitor, name="Ada ", password=PASSWORD)
    assert answer.status_code == 303
    cookie = next(c for c in answer.headers.get_list("set-cookie") if "-visit" not in c)
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Sign out" in visitor.get("/").text
    assert visitor.post("/sign-out").status_code == 303
    assert "Sign out" not in visitor.get("/").text


def test_a_cookie_is_worth_nothing_after_sign_out(visitor):
    visitor.sign_in()
    token = visitor.client.cookies[visitor.board.cookie]
    visitor.post("/sign-out")
    assert users.session_user(visitor.board.file, token) is None


def test_a_wrong_password_is_refused_and_guessing_is_slowed(visitor):
    users.add_user(visitor.board.directory, "ada", PASSWORD)
    for _ in range(brake.OF_AN_ADDRESS):
        assert ask(visitor, name="ada", password="wrong wrong").status_code == 403
    answer = ask(visitor, name="ada", password=PASSWORD)
    assert answer.status_code == 403
    assert "too many" in answer.text
    assert ask(visitor, code=visitor.board.one_time.secret).status_code == 303


def test_strangers_do_not_keep_out_a_browser_that_is_known(visitor):
    users.add_user(visitor.board.directory, "ada", PASSWORD)
    assert ask(visitor, name="ada", password=PASSWORD).status_code == 303
    visitor.post("/sign-out")
    known = dict(visitor.client.cookies)
    visitor.client.cookies.clear()
    while "too many" not in ask(visitor, name="ada", password="wrong wrong").text:
        pass
    assert ask(visitor, name="ada", password=PASSWORD).status_code == 403
    for name, value in known.items():
        visitor.client.cookies.set(name, value, domain="127.0.0.1", path="/")
    assert ask(visitor, name="ada", password=PASSWORD).status_code == 303


def test_a_user_who_is_removed_is_out_at_once(visitor):
    users.add_user(visitor.board.directory, "ada", PASSWORD)
    token = users.open_session(visitor.board.file, "ada")
    users.remove_user(visitor.board.directory, "ada")
    assert users.session_user(visitor.board.file, token) is None
    assert ask(visitor, name="ada", password=PASSWORD).status_code == 403
    with pytest.raises(SteerproofError, match="no user 'ada'"):
        users.remove_user(visitor.board.directory, "ada")


def test_a_session_of_a_user_whom_somebody_deleted_by_hand_is_worth_nothing(visitor):
    token = users.open_session(visitor.board.file, "ada")
    db = sqlite3.connect(visitor.board.file)  # as a plain client does: no foreign keys
    db.execute("DELETE FROM user")
    db.commit()
    db.close()
    assert users.session_user(visitor.board.file, token) is None


@pytest.mark.parametrize("name", ["nobody", "root", "", "ada' OR 1=1 --"])
def test_who_does_not_exist_cannot_sign_in(visitor, name):
    assert ask(visitor, name=name, password=PASSWORD).status_code == 403


def test_the_one_time_link_works_once(visitor):
    secret = visitor.board.one_time.secret
    assert ask(visitor, code="x" * 43).status_code == 403
    assert ask(visitor, code=secret).status_code == 303
    visitor.client.cookies.clear()
    assert ask(visitor, code=secret).status_code == 403


def test_of_many_at_once_one_redeems_the_link():
    link = users.OneTime(user="ada")
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(link.redeem(link.secret))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(filter(None, got)) == ["ada"]


def test_the_owner_of_the_link_has_no_password(visitor):
    ask(visitor, code=visitor.board.one_time.secret)
    visitor.client.cookies.clear()
    name = visitor.board.one_time.user
    assert ask(visitor, name=name, password="").status_code == 403


def test_signing_in_needs_the_forms_own_token(visitor):
    users.add_user(visitor.board.directory, "ada", PASSWORD)
    visitor.get("/sign-in")
    assert ask(visitor, name="ada", password=PASSWORD, form="0" * 64).status_code == 403


@pytest.mark.parametrize(
    "onward", ["//evil.example", "http://evil.example", "/\\evil", "javascript:x", ""]
)
def test_after_sign_in_one_stays_on_the_board(visitor, onward):
    answer = ask(visitor, code=visitor.board.one_time.secret, next=onward)
    assert answer.headers["location"] == "/"


def test_passwords_and_tokens_are_stored_as_hashes_only(visitor):
    users.add_user(visitor.board.directory, "ada", PASSWORD)
    token = users.open_session(visitor.board.file, "ada")
    with connect(visitor.board.file) as db:
        text = "\n".join(db.iterdump())
    assert PASSWORD not in text
    assert token not in text
    assert "$argon2id$" in text


def test_a_new_password_ends_the_old_sessions(visitor):
    users.add_user(visitor.board.directory, "ada", PASSWORD)
    token = users.open_session(visitor.board.file, "ada")
    users.add_user(visitor.board.directory, "ada", PASSWORD + "!")
    assert users.session_user(visitor.board.file, token) is None
    assert not users.check_password(visitor.board.file, "ada", PASSWORD)
    assert users.check_password(visitor.board.file, "ada", PASSWORD + "!")


@pytest.mark.parametrize(
    ("name", "password"), [("Ada", PASSWORD), ("../x", PASSWORD), ("", PASSWORD), ("ada", "short")]
)
def test_bad_names_and_short_passwords_are_refused(tmp_path, name, password):
    with pytest.raises(SteerproofError):
        users.add_user(tmp_path, name, password)


def test_an_old_session_ends(visitor, monkeypatch):
    monkeypatch.setattr(users, "SESSION_SECONDS", -1.0)
    token = users.open_session(visitor.board.file, "ada")
    assert users.session_user(visitor.board.file, token) is None
