"""The board in a real browser: the whole way of an experiment, live, and against hostile text."""

import itertools
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from steerproof.board import comments, entries, users
from steerproof.run.store.hold import Holder, lock_state
from tests.board import rig
from tests.board.conftest import PASSWORD
from tests.board.test_pages import HOSTILE
from tests.board.test_proposals import PAGE

WAIT = 30_000


class Watched:
    """A page whose every dialog, error, refused content and foreign request is remembered."""

    def __init__(self, browser, served, **settings):
        self.context = browser.new_context(base_url=served.url, **settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.seen: list[str] = []
        self.page.on("dialog", lambda d: (self.seen.append(f"dialog {d.message}"), d.dismiss()))
        self.page.on("pageerror", lambda e: self.seen.append(f"error {e}"))
        self.page.on("console", self._console)
        self.page.on("request", self._request)
        self.own = served.url

    def _console(self, message):
        if "Content Security Policy" in message.text or "Trusted" in message.text:
            self.seen.append(f"policy {message.text}")

    def _request(self, request):
        if not request.url.startswith((self.own + "/", "data:")):
            self.seen.append(f"request {request.url}")

    def close(self):
        self.context.close()
        return self.seen


def sign_in(page):
    page.goto("/sign-in")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name="Sign out").wait_for()


@pytest.fixture
def proposed(served):
    """A board with the tracker page as a proposal that has an experiment, and one user."""
    file = served.runs.parent / "proposal.txt"
    file.write_text(PAGE)
    entries.propose(file, "zlt", served.directory)
    users.add_user(served.directory, "ada", PASSWORD)
    return served


def test_from_a_proposal_to_a_judged_experiment_with_a_comment(browser, proposed, monkeypatch):
    monkeypatch.setenv(rig.PAUSE, "0.1")
    watched = Watched(browser, proposed)
    page = watched.page
    page.goto("/")
    page.get_by_role("link", name=re.compile("does the model read the direction")).click()
    page.get_by_role("heading", name="Design (single variable: training-time steering)").wait_for()
    assert page.get_by_role("button", name="Start").count() == 0
    page.get_by_role("link", name="Sign in", exact=True).first.click()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url("**/experiments/342")

    page.get_by_role("button", name="Plan", exact=True).click()
    page.get_by_text("cannot be told from 0").wait_for()  # without a reload by hand
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("a.cell").nth(1).wait_for()
    few = page.locator("a.cell").count()
    page.locator(".cell.missing").first.wait_for()
    page.wait_for_function("n => document.querySelectorAll('a.cell').length > n", arg=few)
    page.locator("#live-status .badge.judged").wait_for()
    assert page.locator("a.cell").count() == 20
    page.get_by_label("Verdict").get_by_text("SUPPORTED").wait_for()
    assert page.evaluate("document.querySelector('.figures img').complete") is not None

    page.locator("a.cell").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    name = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert name.startswith("A.poet.neutral.centroid.L1.c=+2: ")
    page.keyboard.press("Enter")
    page.locator("mark").first.wait_for()
    page.get_by_label("Fired").select_option("yes")
    page.wait_for_url("**fired=yes**")
    assert page.locator("pre.text").count() == page.locator("pre.text:has(mark)").count() > 0

    page.get_by_label(re.compile("Comment as ada")).fill("Odd: *all* of them. See #342.")
    page.get_by_role("button", name="Comment", exact=True).click()
    page.locator(".comment em", has_text="all").wait_for()
    form = page.locator(".composer").evaluate(
        "f => new URLSearchParams(new FormData(f)).toString()"
    )
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("link", name="Sign in").first.wait_for()
    refused = page.evaluate(
        "async body => (await fetch('/experiments/342/comments', {method: 'POST', body: body + 'x',"
        " headers: {'content-type': 'application/x-www-form-urlencoded'}})).status",
        form,
    )
    assert refused == 403
    assert comments.counts(proposed.board.file, 342) == {"A.poet.neutral.centroid.L1.c=+2": 1}
    assert watched.close() == []


def test_a_killed_run_and_a_restarted_board_are_shown_as_they_are(browser, proposed, monkeypatch):
    monkeypatch.setenv(rig.PAUSE, "0.3")
    watched = Watched(browser, proposed)
    page = watched.page
    sign_in(page)
    page.goto("/experiments/342")
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("a.cell").first.wait_for()
    page.locator("#live-status .badge.running").wait_for()
    proposed.stop()
    holder = lock_state(entries.entry(proposed.board.file, 342).directory).holder
    assert isinstance(holder, Holder)
    os.kill(holder.pid, signal.SIGKILL)
    proposed.start()
    page.locator("#live-status .badge.interrupted").wait_for()  # the page found the board again
    assert page.locator("#live-status .badge.running").count() == 0
    page.get_by_text("Interrupted.").wait_for()
    monkeypatch.setenv(rig.PAUSE, "0")
    page.get_by_role("button", name="Start again").click()
    page.locator("#live-status .badge.judged").wait_for()
    watched.close()


def test_stop_ends_a_run_that_an_earlier_board_started(browser, proposed, monkeypatch):
    monkeypatch.setenv(rig.PAUSE, "0.3")
    watched = Watched(browser, proposed)
    page = watched.page
    sign_in(page)
    page.goto("/experiments/342")
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("a.cell").first.wait_for()
    proposed.stop()
    proposed.start()
    page.reload()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#live-status .badge.interrupted").wait_for()
    watched.close()


def test_hostile_text_does_nothing(browser, served):
    personas = tuple(rig.Persona(name=n, prompt=t) for n, t in zip("abcd", HOSTILE, strict=False))
    questions = rig.Questions(
        evaluation=tuple(HOSTILE), training=("What is tea?",), directions=("Why?", "How?")
    )
    experiment = rig.tiny_experiment(
        title="".join(HOSTILE), hypothesis="".join(HOSTILE), personas=personas, questions=questions
    )
    run = served.runs / "hostile"
    rig.fill(run, experiment, {f"{q}/{s}": t for q, t in enumerate(HOSTILE) for s in range(2)})
    rig.judge(run, verdict=HOSTILE[1], reason=HOSTILE[3], reading=HOSTILE[4])
    evil = '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2)</script>'
    evil += '<image href="http://evil.example/x.png"/></svg>'
    (run / "results" / "figures" / "evil.svg").write_text(evil)
    file = served.runs.parent / "p.md"
    file.write_text("# " + HOSTILE[0] + "\n" + "\n\n".join(HOSTILE))
    entries.propose(file, None, served.directory)
    watched = Watched(browser, served)
    page = watched.page
    page.goto("/")
    for number in (1, 2):
        for text in HOSTILE:
            comments.add(served.board.file, number, "<b>ada</b>", text)
    cell = "/experiments/2/cells/A.a.neutral.centroid.L1.c%3D%2B2"
    other = "beside=C.b.persona.none"
    for address in ("/", "/experiments/1", "/experiments/2", cell, f"{cell}?{other}",
                    "/compare?left=2:A&right=2:C", "/experiments/2/figures/evil.svg"):  # fmt: skip
        if address.endswith(".svg"):
            page.evaluate(f"location.assign('{address}')")  # a download, not a page
        else:
            page.goto(address)
            assert page.locator("h1").count() == 1
        page.wait_for_timeout(150)
    assert watched.close() == []


def test_inline_code_would_be_stopped_by_the_policy(browser, served):
    watched = Watched(browser, served)
    watched.page.goto("/")
    watched.page.evaluate(
        "(() => { const s = document.createElement('style'); s.textContent = 'p {}';"
        " document.head.append(s); })()"
    )
    watched.page.wait_for_timeout(100)
    assert any("policy" in line for line in watched.close())


def test_the_one_time_link_signs_in(browser, served):
    watched = Watched(browser, served)
    watched.page.goto(f"/sign-in#{served.board.one_time.secret}")
    watched.page.get_by_role("button", name="Sign out").wait_for()
    assert served.board.one_time.used
    assert "#" not in watched.page.url
    assert watched.close() == []


CHECKS = (Path(__file__).parent / "page_checks.js").read_text()


def check(page, name):
    """Run one of the functions of `page_checks.js` in the page, past its policy."""
    return page.evaluate(f"(() => {{ {CHECKS}; return {name}(); }})()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_every_page_can_be_read_by_everybody(browser, served, judged_run, scheme, width):
    shutil.copytree(judged_run, served.runs / "one")
    users.add_user(served.directory, "ada", PASSWORD)
    size = {"width": width, "height": 844}
    watched = Watched(browser, served, color_scheme=scheme, viewport=size)
    page = watched.page
    sign_in(page)
    comments.add(served.board.file, 1, "ada", "First") if entries.entries(
        served.board.file
    ) else None
    cell = "/experiments/1/cells/A.poet.neutral.centroid.L1.c%3D%2B2"
    figure = "/experiments/1/figures/ranking.svg/large"
    for address in ("/", "/experiments/1", cell, f"{cell}?beside=C.poet.persona.none",
                    "/compare?left=1:A&right=1:C", "/table", "/propose", figure, "/sign-in",
                    "/experiments/99"):  # fmt: skip
        page.goto(address)
        assert check(page, "lowContrast") == [], address
        assert check(page, "unnamed") == [], address
        assert check(page, "overflow") == 0, address
        assert check(page, "sideways") == [], address
        levels = check(page, "headings")
        assert levels.count(1) == 1, address
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), (address, levels)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert watched.close() == []
