"""Pages are made once, and anew when something that they show changes."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from steerproof.board import comments, entries, kept, templating


@pytest.fixture
def made(visitor, judged_run, monkeypatch):
    """A board with two runs, and how often each template was rendered."""
    visitor.add(judged_run, "one")
    visitor.add(judged_run, "two")
    visitor.get("/")
    counted = Counter()
    environment = templating._environment()
    find = environment.get_template

    def counting(name, *more):
        counted[name] += 1
        return find(name, *more)

    monkeypatch.setattr(environment, "get_template", counting)
    monkeypatch.setattr(kept, "AGE_SECONDS", 10**9)
    return visitor, counted


def test_a_page_that_nothing_changed_is_made_once(made):
    visitor, counted = made
    pages = {visitor.get("/experiments/1").text for _ in range(20)}
    assert len(pages) == 1
    assert counted["experiment.html"] == 1


def test_many_at_once_wait_for_the_one_that_makes_it(made):
    visitor, counted = made
    with ThreadPoolExecutor(16) as many:
        answers = list(many.map(lambda _: visitor.get("/experiments/2").status_code, range(48)))
    assert answers == [200] * 48
    assert counted["experiment.html"] == 1


def test_what_changes_is_made_anew_and_nothing_else(made):
    visitor, counted = made
    comments.add(visitor.board.file, 1, "ada", "a new thought")
    assert "a new thought" in visitor.get("/experiments/1").text
    visitor.get("/experiments/2")
    run = entries.entry(visitor.board.file, 1).directory
    (run / "results" / "verdict.json").unlink()
    counted.clear()
    assert 'aria-label="Verdict"' not in visitor.get("/experiments/1").text
    visitor.get("/experiments/2")
    assert counted["experiment.html"] == 1
    assert visitor.get("/").text.count("REFUTED") == 0


def test_who_is_signed_in_never_gets_a_page_of_another(made):
    visitor, _ = made
    assert "Sign out" not in visitor.get("/").text
    visitor.sign_in("ada")
    assert ">ada<" in visitor.get("/").text
    visitor.sign_in("bob")
    assert ">ada<" not in visitor.get("/").text
    visitor.client.cookies.clear()
    assert "Sign out" not in visitor.get("/").text


def test_no_more_is_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(kept, "MOST_BYTES", 8000)
    store = kept.Kept()
    for number in range(100):
        store.keep((str(number), "", "", 0), b"x" * 500)
    store.keep(("large", "", "", 0), b"x" * 5000)
    assert store.size == sum(map(len, store.pages.values())) <= 8000
    assert store.find(("99", "", "", 0)) is not None
    assert store.find(("1", "", "", 0)) is None
    assert store.find(("large", "", "", 0)) is None
