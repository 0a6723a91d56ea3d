"""Caps, holds, opinions, plans that are kept, and the API: who allows what, and who may read it."""

import json

import pytest

from steerproof.board import entries, tokens, users
from steerproof.board.database import connect
from tests.board import rig
from tests.board.conftest import until
from tests.board.test_findings import answered
from tests.board.test_pages import column_of, propose
from tests.board.test_proposals import FRONT


@pytest.fixture
def proposed(visitor):
    propose(visitor, FRONT, "zlt")
    visitor.sign_in()
    return visitor


@pytest.fixture
def one(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.get("/")
    visitor.sign_in()
    return visitor


# A cap before a start


def test_nothing_starts_before_a_cap_is_approved(proposed):
    answer = proposed.post("/experiments/7/start")
    assert answer.status_code == 409
    assert "how many device hours" in answer.text
    assert entries.entry(proposed.board.file, 7).directory is None
    assert proposed.post("/experiments/7/approve", hours="0,5").status_code == 303
    assert "at most 0.5 device hours" in proposed.get("/experiments/7").text
    assert proposed.post("/experiments/7/start").status_code == 303
    until(lambda: column_of(proposed, 7) == "judged")


def test_the_cap_is_passed_to_the_run(proposed, monkeypatch):
    seen = {}

    def begin(file, logs, order):
        seen["words"] = order.words
        return 1

    monkeypatch.setattr("steerproof.board.jobs.start", begin)
    proposed.post("/experiments/7/start", hours="0.25")
    assert seen["words"][-2:] == ("--device-hours", "0.25")
    proposed.post("/experiments/7/start", hours="2")
    assert seen["words"][-1] == "2.0"
    html = proposed.get("/experiments/7").text
    assert "at most 2 device hours" in html
    assert "Before: 0.25 by ada." in html
    assert "Approved</strong> by ada" in html


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "1e9", "x", "1; rm"])
def test_a_cap_is_a_number_of_hours(proposed, hours):
    for act in ("approve", "start"):
        assert proposed.post(f"/experiments/7/{act}", hours=hours).status_code == 409
    assert "Approved by" not in proposed.get("/experiments/7").text


def test_a_run_that_used_up_its_cap_says_so(proposed, judged_run):
    run = proposed.add(judged_run, "0007-zlt")
    (run / "results" / "verdict.json").unlink()
    entries.update(proposed.board.file, 7, directory=str(run))
    proposed.post("/experiments/7/approve", hours="0.0000001")
    assert "Stopped at its cap" in proposed.get("/experiments/7").text
    proposed.post("/experiments/7/approve", hours="9")
    assert "Stopped at its cap" not in proposed.get("/experiments/7").text


# On hold, cancelled


@pytest.mark.parametrize("state", ["on_hold", "cancelled"])
def test_what_is_held_does_not_start_until_it_is_taken_up_again(proposed, state):
    answer = proposed.post("/experiments/7/hold", state=state, reason="no GPU this week")
    assert answer.status_code == 303
    assert column_of(proposed, 7) == state
    for act in ("plan", "start"):
        assert proposed.post(f"/experiments/7/{act}", hours="1").status_code == 409
    html = proposed.get("/experiments/7").text
    assert "no GPU this week" in html
    assert 'action="/experiments/7/start"' not in html
    proposed.post("/experiments/7/hold", state="")
    assert column_of(proposed, 7) == "proposed"
    assert proposed.post("/experiments/7/hold", state="done").status_code == 409


def test_what_runs_or_is_judged_is_not_held(one):
    assert one.post("/experiments/1/hold", state="cancelled").status_code == 409
    assert column_of(one, 1) == "judged"


# A person's confidence beside the verdict


def test_an_opinion_stands_beside_the_verdict_and_changes_nothing(one):
    run = entries.entry(one.board.file, 1).directory
    answered(run)
    before = (run / "results" / "verdict.json").read_bytes()
    assert (
        one.post("/experiments/1/opinions", confidence="30", note="n is <b>10</b>").status_code
        == 303
    )
    one.post("/experiments/1/opinions", confidence="60", note="read the matrix")
    one.sign_in("bob")
    one.post("/experiments/1/opinions", confidence="5", note="")
    html = one.get("/experiments/1").text
    assert "<strong>ada</strong> 60% sure: read the matrix" in html
    assert "changed 1 time<" in html
    assert "<strong>bob</strong> 5% sure" in html
    assert "REFUTED" in html
    assert (run / "results" / "verdict.json").read_bytes() == before
    with connect(one.board.file) as db, pytest.raises(Exception, match="append-only"):
        db.execute("UPDATE opinion SET confidence = 100")


@pytest.mark.parametrize("confidence", ["", "-1", "101", "x", "1e1", "0999", "\u0665"])
def test_a_confidence_is_a_percentage(one, confidence):
    assert one.post("/experiments/1/opinions", confidence=confidence).status_code == 409


def test_without_a_verdict_there_is_nothing_to_be_sure_of(proposed):
    assert proposed.post("/experiments/7/opinions", confidence="50").status_code == 409


# Plans are kept


def test_every_plan_is_kept(proposed):
    for number in (1, 2, 3):
        proposed.post("/experiments/7/plan")
        until(lambda: column_of(proposed, 7) == "planned")
        until(lambda number=number: proposed.get("/experiments/7").text.count("Planned</strong> by")
              == number and "Planned:" in proposed.get("/experiments/7").text)  # fmt: skip
    html = proposed.get("/experiments/7").text
    assert "2 earlier plans" in html
    assert html.count("cannot be told from 0") == 3


# The API


def bearer(visitor, address, secret):
    return visitor.client.get(address, headers={"authorization": f"Bearer {secret}"})


def test_the_api_reads_with_a_token_and_not_without(one):
    answered(entries.entry(one.board.file, 1).directory)
    page = one.post("/tokens", name="my notebook")
    secret = page.text.partition('aria-label="The new token">')[2].partition("<")[0]
    assert secret not in one.get("/tokens").text
    one.client.cookies.clear()
    for wrong in ("", "x", secret[:-1], secret.upper()):
        answer = bearer(one, "/api/experiments", wrong)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    listed = bearer(one, "/api/experiments", secret).json()["experiments"]
    assert listed[0]["number"] == 1
    assert listed[0]["answers"] == {
        "registered": "REFUTED", "ranking": "CANNOT ANSWER", "direction": "reads its own direction",
        "carries": "undecided", "rho": 0.34, "interval": [pytest.approx(-0.15), 0.46],
    }  # fmt: skip
    whole = bearer(one, "/api/experiments/1", secret).json()
    assert whole["experiment"]["seed"] == rig.tiny_experiment().seed
    assert whole["units"] == {"done": 30}
    assert whole["verdict"]["answers"]["lines"]
    cells = bearer(one, "/api/experiments/1/cells", secret).json()["cells"]
    assert len(cells) == 20
    assert all(0 <= cell["fired"] <= cell["total"] == 6 for cell in cells)
    rates = bearer(one, "/api/experiments/1/files/rates.csv", secret)
    assert rates.text.startswith("arm,")
    for missing in ("/api/experiments/9", "/api/experiments/1/files/ledger.sqlite"):
        answer = bearer(one, missing, secret)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_the_api_changes_nothing(one):
    secret = tokens.create(one.board.file, "ada", "x")
    one.client.cookies.clear()
    for method in ("POST", "PUT", "DELETE"):
        answer = one.client.request(
            method, "/api/experiments/1",
            headers={"authorization": f"Bearer {secret}", "origin": "http://127.0.0.1:8765"},
        )  # fmt: skip
        assert answer.status_code == 405
    answer = one.client.post(
        "/experiments/1/comments", data={"text": "x"},
        headers={"authorization": f"Bearer {secret}", "origin": "http://127.0.0.1:8765"},
    )  # fmt: skip
    assert answer.status_code == 403


def test_a_token_is_a_hash_at_rest_and_ends_when_it_is_revoked(one):
    file = one.board.file
    mine, other = tokens.create(file, "ada", "mine"), tokens.create(file, "bob", "his")
    with connect(file) as db:
        text = "\n".join(db.iterdump())
    assert mine not in text
    assert mine.removeprefix(tokens.PREFIX) not in text
    assert tokens.owner(file, mine) == "ada"
    number = tokens.tokens(file, "ada")[0].id
    his = tokens.tokens(file, "bob")[0].id
    assert one.post(f"/tokens/{his}/revoke").status_code == 409
    assert tokens.tokens(file, "bob")[0].revoked is None
    assert one.post(f"/tokens/{number}/revoke").status_code == 303
    assert tokens.owner(file, mine) is None
    assert "revoked" in one.get("/tokens").text
    assert tokens.owner(file, other) is None  # bob is no user of this board


def test_the_tokens_of_a_user_who_is_removed_end(one):
    secret = tokens.create(one.board.file, "ada", "x")
    users.remove_user(one.board.directory, "ada")
    assert tokens.owner(one.board.file, secret) is None


def test_a_user_has_only_so_many_tokens(one, monkeypatch):
    monkeypatch.setattr(tokens, "MOST", 2)
    assert one.post("/tokens", name="a").status_code == 200
    assert one.post("/tokens", name="b").status_code == 200
    assert one.post("/tokens", name="c").status_code == 409
    assert one.post("/tokens", name=" ").status_code == 409
    assert json.dumps([t.name for t in tokens.tokens(one.board.file, "ada")]) == '["b", "a"]'
