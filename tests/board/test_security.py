import itertools
import socket

import pytest

from steerproof.board import security, server, users
from steerproof.board.database import open_board
from steerproof.errors import MachineError, SteerproofError
from tests.board.conftest import HERE, PASSWORD, PORT

ADDRESSES = [
    "/", "/table", "/propose", "/tokens", "/compare", "/sign-in", "/experiments/1",
    "/experiments/99", "/nowhere", "/events/x", "/api/experiments", "/api/experiments/1",
    "/static/board.css", "/static/none.css", "/experiments/1/files/rates.csv", "/sign-out",
]  # fmt: skip


OTHER_HOSTS = [
    "evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"0.0.0.0:{PORT}", "",
    f"127.0.0.1.evil.com:{PORT}", f"localhost.:{PORT}", f"127.0.0.1:{PORT}@evil.example",
]  # fmt: skip
OWN_HOSTS = [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"]


def test_another_host_is_refused_whatever_the_address(visitor):
    for host, address in itertools.product(OTHER_HOSTS, ADDRESSES):
        assert visitor.get(address, headers={"host": host}).status_code == 421, (host, address)


def test_its_own_names_are_answered(visitor):
    for host in OWN_HOSTS:
        assert visitor.get("/", headers={"host": host}).status_code == 200, host


SITES = [None, "same-origin", "none", "same-site", "cross-site"]
ORIGINS = [
    None,
    HERE,
    "null",
    "http://evil.example",
    f"https://127.0.0.1:{PORT}",
    "http://127.0.0.1",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_only_the_boards_own_pages_read_it(visitor, method):
    for origin, site in itertools.product(ORIGINS, SITES):
        ours = origin in (None, HERE) and site in (None, "same-origin", "none")
        answer = visitor.client.request(method, "/", headers=_headers(origin, site))
        assert answer.status_code == (200 if ours else 403), (origin, site)


def test_only_the_boards_own_pages_change_it(visitor):
    for origin, site in itertools.product(ORIGINS, SITES):
        visitor.sign_in()
        cookie = visitor.client.cookies[visitor.board.cookie]
        form = {"form": users.form_token(visitor.board.secret, cookie)}
        answer = visitor.client.post(
            "/sign-out", data=form, headers=_headers(origin, site), follow_redirects=False
        )
        ours = origin == HERE and site in (None, "same-origin")
        assert answer.status_code == (303 if ours else 403), (origin, site)
        still = users.session_user(visitor.board.file, cookie)
        assert still == (None if ours else "ada")


def _headers(origin, site):
    given = {"origin": origin, "sec-fetch-site": site}
    return {name: value for name, value in given.items() if value is not None}


def test_two_origins_are_one_too_many(visitor):
    headers = [("origin", HERE), ("origin", HERE)]
    assert visitor.client.get("/", headers=headers).status_code == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_do_not_exist(visitor, method):
    assert visitor.client.request(method, "/").status_code == 405


def test_every_response_forbids_frames_and_inline_code(visitor, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("steerproof.board.pages.comparing.arm_choices", broken)
    answers = [visitor.get(a) for a in ADDRESSES]
    answers += [visitor.post(a) for a in ADDRESSES]
    answers += [visitor.get("/", headers={"host": "x"}), visitor.client.put("/")]
    seen = {answer.status_code for answer in answers}
    assert {200, 403, 404, 405, 421, 500} <= seen
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "secret detail" not in answer.text


def test_pages_hold_no_inline_script_or_style(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.sign_in()
    for address in ("/", "/experiments/1", "/compare?left=1:A&right=1:C", "/sign-in"):
        html = visitor.get(address).text
        assert "<style" not in html
        assert " style=" not in html
        assert html.count("<script") == html.count("<script src=") == 1
        assert " onclick" not in html


BAD_IDS = [
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..;/x",
    "....//x", "/etc/passwd", "%00", "rates.csv%00.txt", "rates.csv%23", "..\\..\\x", "C:\\x",
    "file:///etc/passwd", "experiment.yaml/../ledger.sqlite", "ledger.sqlite", "manifest.json",
]  # fmt: skip


def test_ids_are_looked_up_and_never_paths(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.get("/")
    for place, bad in itertools.product(("files", "figures", "cells"), BAD_IDS):
        answer = visitor.get(f"/experiments/1/{place}/{bad}")
        assert answer.status_code in (404, 405), (place, bad)
        assert "root:" not in answer.text
    for bad in BAD_IDS:
        assert visitor.get(f"/experiments/{bad}").status_code == 404, bad
        assert visitor.get(f"/static/{bad}").status_code == 404, bad


def test_odd_numbers_are_nobody(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.get("/")
    assert visitor.get("/experiments/1").status_code == 200
    for number in ("0", "-1", "01", "1e3", "99999999999999999999", "१", "1.0"):
        assert visitor.get(f"/experiments/{number}").status_code == 404, number


def test_a_link_out_of_the_run_directory_is_not_followed(visitor, judged_run, tmp_path):
    run = visitor.add(judged_run, "one")
    secret = tmp_path / "secret.svg"
    secret.write_text("<svg>secret</svg>")
    (run / "results" / "figures" / "out.svg").symlink_to(secret)
    (run / "results" / "verdict.json").unlink()
    (run / "results" / "verdict.json").symlink_to(secret)
    (visitor.runs / "elsewhere").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "experiment.yaml").write_text("x")
    visitor.get("/")
    assert visitor.get("/experiments/1/figures/out.svg").status_code == 404
    assert visitor.get("/experiments/1/files/verdict.json").status_code == 404
    assert visitor.get("/experiments/1/figures/ranking.svg").status_code == 200
    assert visitor.get("/experiments/2").status_code == 404


def test_a_form_without_its_token_changes_nothing(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.get("/")
    visitor.sign_in()
    for token in ("", "0" * 64, users.form_token(visitor.board.secret, "another")):
        answer = visitor.post("/experiments/1/comments", text="x", form=token)
        assert answer.status_code == 403
    assert "No comments yet" in visitor.get("/experiments/1").text
    assert visitor.post("/experiments/1/comments", text="hello").status_code == 303


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("text/plain", b"form=x", 415),
        ("application/x-www-form-urlencoded", b"a=" + b"x" * 300_000, 413),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 40), 400),
        ("application/x-www-form-urlencoded", b"a=\xff", 400),
    ],
)
def test_only_small_forms_are_read(visitor, kind, body, status):
    visitor.sign_in()
    headers = {"content-type": kind, "origin": HERE}
    assert visitor.client.post("/sign-out", content=body, headers=headers).status_code == status


def test_every_change_needs_a_signed_in_user(visitor, judged_run):
    visitor.add(judged_run, "one")
    visitor.get("/")
    changes = [
        "plan", "start", "approve", "stop", "hold", "opinions", "archive", "attach", "proposal",
        "comments", "comments/1",
    ]  # fmt: skip
    for change in changes:
        answer = visitor.post(f"/experiments/1/{change}", text="x", away="yes")
        assert answer.status_code == 403
        assert "Sign in" in answer.text
        assert visitor.get(f"/experiments/1/{change}").status_code in (404, 405)
    assert visitor.post("/sign-out").status_code == 403


def test_beyond_loopback_it_needs_users_before_the_port_is_taken(tmp_path, monkeypatch):
    def taken(*_):
        raise AssertionError("the port was taken")

    monkeypatch.setattr(server, "_listen", taken)
    with pytest.raises(SteerproofError, match="create a user first"):
        server.serve([tmp_path], tmp_path / "board", port=0, host="0.0.0.0", announce=print)
    users.add_user(tmp_path / "board", "ada", PASSWORD)
    with pytest.raises(SteerproofError, match="needs the names"):
        server.serve([tmp_path], tmp_path / "board", port=0, host="0.0.0.0", announce=print)
    server.check_bind(open_board(tmp_path / "board"), "0.0.0.0", ["lab.example.org"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_users(tmp_path, host):
    server.check_bind(open_board(tmp_path / "board"), host, [])


def test_a_taken_port_is_an_error_with_a_way_out(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(MachineError, match="--port"):
            server.serve([tmp_path], tmp_path / "b", port=other.getsockname()[1], announce=print)


def test_a_bind_beyond_loopback_answers_to_its_names_only():
    allowed = security.allowed_for("0.0.0.0", 8000, ["lab.example.org"])
    assert allowed.hosts == {"lab.example.org:8000"}
    assert allowed.origins == {"http://lab.example.org:8000", "https://lab.example.org:8000"}
    assert security.allowed_for("10.0.0.5", 80).hosts == {"10.0.0.5:80", "10.0.0.5"}
