"""Guessing is slowed; its brake is passed, cleared and aimed by nobody."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from steerproof.board import brake
from steerproof.board.brake import Brake, BusyError, SignInError, known_browser, recognise


def tries(held, count, name="ada", address="10.0.0.{}", browser=None, right=False):
    """How many of `count` tries are let through to the password; `{}` in an address counts up."""
    let = 0
    for number in range(count):
        try:
            with held.trying(name.format(number), address.format(number), browser) as one:
                one.right = right
                let += 1
        except SignInError:
            pass
    return let


def test_a_name_is_tried_from_many_addresses_only_so_often():
    held = Brake()
    assert tries(held, 200) == brake.OF_A_NAME
    assert tries(held, 5, name="bob") == 5


def test_an_address_tries_many_names_only_so_often():
    held = Brake()
    assert tries(held, 200, name="user-{}", address="10.0.0.1") == brake.OF_AN_ADDRESS
    assert tries(held, 5, name="bob", address="10.0.0.2") == 5


def test_tries_at_once_do_not_pass_the_limit(monkeypatch):
    monkeypatch.setattr(brake, "WAIT_SECONDS", 30.0)
    held, together = Brake(), threading.Barrier(60)

    def attempt(number):
        together.wait()
        try:
            with held.trying("ada", "10.0.0.1", None):
                time.sleep(0.005)
                return True
        except SignInError:
            return False

    with ThreadPoolExecutor(60) as many:
        let = sum(many.map(attempt, range(60)))
    assert let == brake.OF_AN_ADDRESS


def test_ten_thousand_other_names_do_not_clear_it():
    held = Brake()
    assert tries(held, 50) == brake.OF_A_NAME
    for number in range(10_001):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        tries(held, 1, name=f"other-{number}", address=address)
    assert tries(held, 1, address="172.16.0.1") == 0
    assert len(held.names.times) <= brake.SLOTS
    assert len(held.addresses.times) <= brake.MOST


def test_right_passwords_are_not_counted():
    held = Brake()
    assert tries(held, 200, address="10.0.0.1", right=True) == 200


def test_it_lets_go_with_time(monkeypatch):
    held = Brake()
    assert tries(held, 50, address="10.0.0.1") == brake.OF_AN_ADDRESS
    clock = time.monotonic() + brake.WINDOW_SECONDS + 1
    monkeypatch.setattr(brake.time, "monotonic", lambda: clock)
    assert tries(held, 1, address="10.0.0.1") == 1


def test_a_known_browser_has_its_own_count():
    held, secret = Brake(), b"s" * 32
    token = known_browser(secret, "ada")
    mine = recognise(secret, "ada", token)
    assert mine is not None
    tries(held, 500)
    assert tries(held, 20, browser=mine) == brake.OF_A_BROWSER
    assert recognise(secret, "bob", token) is None
    assert recognise(b"t" * 32, "ada", token) is None
    for wrong in (None, "", ".", "x.y", token[:-1], token + "0", "\u0661." + token):
        assert recognise(secret, "ada", wrong) is None


def test_few_passwords_are_hashed_at_once(monkeypatch):
    monkeypatch.setattr(brake, "WAIT_SECONDS", 0.05)
    held, hold, inside = Brake(), threading.Event(), []

    def slow(number):
        try:
            with held.trying(f"user-{number}", f"10.0.0.{number}", None):
                inside.append(number)
                hold.wait(10)
        except BusyError:
            return "busy"
        return "looked at"

    with ThreadPoolExecutor(20) as many:
        answers = [many.submit(slow, number) for number in range(20)]
        time.sleep(0.5)
        assert len(inside) == brake.AT_ONCE
        hold.set()
        said = [answer.result() for answer in answers]
    assert said.count("busy") == 20 - brake.AT_ONCE
    assert tries(held, 1, name="user-9", address="10.0.0.9") == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("2001:db8::1", "2001:db8::ffff:1", True), ("2001:db8::1", "2001:db8:0:1::1", False),
     ("10.0.0.1", "10.0.0.2", False), ("", "", True),
     ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False)],
)  # fmt: skip
def test_a_household_is_one_address(one, other, same):
    assert (brake.network(one) == brake.network(other)) is same
