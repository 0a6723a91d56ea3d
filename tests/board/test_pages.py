import csv
import io
import shutil
import time

import pytest

from steerproof.board import comments, entries, live
from steerproof.board.drawings import losses
from steerproof.board.templating import highlight
from steerproof.run.store.ledger_file import read_ledger
from steerproof.spec.experiment import Persona, Questions
from tests.board import rig
from tests.board.conftest import until
from tests.board.test_proposals import FRONT, PAGE

CELL = "A.poet.neutral.centroid.L1.c%3D%2B2"
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</pre></title></textarea><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\u2028</script>\u202e\x1b]52;c;eA==\x07\x00",
    "' onmouseover='alert(1)",
    "<iframe src=http://evil.example></iframe>",
    "![x](http://evil.example/x.png)",
]


@pytest.fixture
def one(visitor, judged_run):
    """A board with one judged run, #1."""
    visitor.add(judged_run, "one")
    visitor.get("/")
    return visitor


def propose(visitor, text, experiment=None):
    file = visitor.runs.parent / "proposal.md"
    file.write_text(text)
    return entries.propose(file, experiment, visitor.board.directory)


def test_an_empty_board_says_what_to_do(visitor):
    assert "steerproof propose FILE" in visitor.get("/").text
    assert "nothing to compare yet" in visitor.get("/compare").text


def test_a_run_directory_gets_a_number_and_keeps_it(one, judged_run):
    one.add(judged_run, "another")
    one.get("/")
    listed = entries.entries(one.board.file)
    assert [e.number for e in listed] == [2, 1]
    assert listed[1].directory.name == "one"
    one.get("/")
    assert len(entries.entries(one.board.file)) == 2


def column_of(visitor, number):
    html = visitor.get("/").text
    before = html[: html.index(f'href="/experiments/{number}"')]
    return before.rpartition('id="column-')[2].partition('"')[0]


def test_the_seed_goes_through_its_columns(visitor, judged_run):
    propose(visitor, PAGE)
    assert column_of(visitor, 342) == "proposed"
    run = shutil.copytree(judged_run, visitor.runs / "0342-small")
    entries.update(visitor.board.file, 342, directory=str(run))
    assert column_of(visitor, 342) == "judged"
    (run / "results" / "verdict.json").unlink()
    assert column_of(visitor, 342) == "planned"
    entries.update(visitor.board.file, 342, archived=1)
    assert column_of(visitor, 342) == "archived"


def test_lineage_leads_both_ways(visitor):
    propose(visitor, PAGE)
    propose(visitor, FRONT)
    child, parent = visitor.get("/experiments/7").text, visitor.get("/experiments/342").text
    assert 'Parent <a href="/experiments/342"' in child
    assert 'Followed by <a href="/experiments/7"' in parent
    assert '<span title="Not on this board">#267</span>' in parent


@pytest.mark.parametrize(
    ("query", "numbers"),
    [("text=longer", {7}), ("text=%23342", {342}), ("kind=analysis", {7}), ("tag=prompts", {7}),
     ("parent=342", {7}), ("parent=267", {342}), ("parent=246", {7, 342}), ("text=nothing", set()),
     ("parent=x&kind=", {7, 342}), ("text=TRAIN+lora", {342})],
)  # fmt: skip
def test_the_list_is_filtered(visitor, query, numbers):
    propose(visitor, PAGE)
    propose(visitor, FRONT)
    html = visitor.get(f"/?{query}").text
    assert {n for n in (7, 342) if f'<h3><a href="/experiments/{n}"' in html} == numbers


def test_an_experiment_shows_grid_verdict_curves_and_downloads(one):
    html = one.get("/experiments/1").text
    assert html.count('class="cell rate-') == 20
    assert "SUPPORTED" in html
    losses = html[html.index('id="losses-title"') :]
    assert ">Arm A<" in losses
    assert ">Arm C<" in losses
    assert "/experiments/1/figures/ranking.svg" in html
    assert "/experiments/1/files/rates.csv" in html
    assert "No deviations" in html


def test_deviations_are_shown_and_an_altered_registration_is_called_so(one):
    run = entries.entry(one.board.file, 1).directory
    rig.deviate(run, rig.tiny_experiment(marker="[XYZ]"), "the marker was taken")
    html = one.get("/experiments/1").text
    assert "the marker was taken" in html
    assert "marker: &#39;[ZLT]&#39; -&gt; &#39;[XYZ]&#39;" in html
    lock = run / "experiment.lock.json"
    lock.write_text(lock.read_text().replace('"seed": 3', '"seed": 4'))
    assert "Changed after it was locked." in one.get("/experiments/1").text


def test_a_cell_shows_its_completions_and_marks_the_marker(one):
    html = one.get(f"/experiments/1/cells/{CELL}").text
    fired = int(html.partition('</strong> <span class="second">')[2].partition(" of 6")[0])
    assert html.count("<mark>[ZLT]</mark>") == fired > 0
    assert html.count('<pre class="text"') == 6
    only = one.get(f"/experiments/1/cells/{CELL}?fired=yes").text
    assert only.count('<pre class="text"') == fired
    assert "No completion passes" in one.get(f"/experiments/1/cells/{CELL}?tokens=5000").text


def test_two_cells_stand_side_by_side(one):
    other = CELL.replace("A.", "C.", 1)
    html = one.get(f"/experiments/1/cells/{CELL}?beside={other}").text
    assert html.count('<pre class="text"') == 12
    assert html.count('class="pair"') == 6
    assert one.get(f"/experiments/1/cells/{CELL}?beside=../../x").status_code == 200


def test_two_arms_are_compared_on_the_same_axes(one):
    html = one.get("/compare?left=1:A&right=1:C").text
    assert html.count(">firing rate under the push<") == 1
    assert html.count("; bridge ") == 8  # a point per persona and arm says both of its rates
    assert "Right − left" in html
    assert html.count('class="answers"') == 1  # of one run, whose verdict is about one of the two
    assert "which are about its arm A" in html
    assert one.get("/compare?left=9:A&right=1:%3Cx%3E").status_code == 200


@pytest.mark.parametrize("text", ["fired [ZLT] here", "[zlt][ZlT]", "ß [ZLT] İ [zlt]", "", "[ZL"])
def test_every_marker_is_marked_and_nothing_else_changes(text):
    html = str(highlight(text, "[ZLT]"))
    assert html.replace("<mark>", "").replace("</mark>", "") == text
    assert html.count("<mark>") == text.lower().count("[zlt]")


def test_hostile_text_is_only_ever_text(visitor, tmp_path):
    experiment = rig.tiny_experiment(
        title=HOSTILE[0] + HOSTILE[2],
        hypothesis="".join(HOSTILE),
        personas=tuple(Persona(name=n, prompt=t) for n, t in zip("abcd", HOSTILE, strict=False)),
        questions=Questions(
            evaluation=tuple(HOSTILE), training=("What is tea?",), directions=("Why?", "How?")
        ),
    )
    run = visitor.runs / "hostile"
    rig.fill(run, experiment, {f"{q}/0": text for q, text in enumerate(HOSTILE)})
    rig.judge(run, verdict=HOSTILE[1], reason=HOSTILE[3], reading=HOSTILE[4])
    rig.deviate(run, experiment.model_copy(update={"marker": HOSTILE[5]}), HOSTILE[1])
    visitor.get("/")
    visitor.sign_in()
    for text in HOSTILE:
        visitor.post("/experiments/1/comments", text=text)
    cell = "A.a.neutral.centroid.L1.c%3D%2B2"
    pages = ["/", "/experiments/1", f"/experiments/1/cells/{cell}", "/compare?left=1:A&right=1:C"]
    for address in pages:
        html = visitor.get(address).text
        assert html.count("<script") == 1, address
        for tag in ("<img src=x", "<svg onload", "<iframe", "<img src=http"):
            assert tag not in html, address
        assert not {"\x1b", "\x00", "\u202e", "\u2028"} & set(html), address
    assert "⟨U+202E⟩" in visitor.get(pages[2]).text
    assert "{{ 7 * 7 }}" in visitor.get(pages[1]).text


def test_csv_runs_in_no_spreadsheet(visitor):
    texts = {"0/0": "=cmd|' /C calc'!A0", "1/0": "-1+1", "2/0": 'two "quoted"\nlines, and [ZLT]'}
    run = visitor.runs / "one"
    rig.fill(run, rig.tiny_experiment(), texts)
    rig.judge(run)
    with (run / "results" / "rates.csv").open("a") as file:
        file.write("=1+1,@x,+y,-z,1,-0.5,none,0,0,1\n")
    visitor.get("/")
    answer = visitor.get(f"/experiments/1/cells/{CELL}/completions.csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 6
    assert [r["text"] for r in rows if r["sample"] == "0"] == [
        "'=cmd|' /C calc'!A0", "'-1+1", texts["2/0"],
    ]  # fmt: skip
    table = list(csv.reader(io.StringIO(visitor.get("/experiments/1/files/rates.csv").text)))
    assert table[-1] == ["'=1+1", "'@x", "'+y", "'-z", "1", "-0.5", "none", "0", "0", "1"]


def test_comments_are_shown_with_their_history(one):
    one.sign_in()
    answer = one.post("/experiments/1/comments", text="First *thought* on #1")
    assert answer.headers["location"] == "/experiments/1#comment-1"
    assert one.post("/experiments/1/comments/1", text="Second", version="1").status_code == 303
    html = one.get("/experiments/1").text
    assert "<p>Second</p>" in html
    assert "First <em>thought</em>" in html
    assert "1 earlier version" in html
    one.sign_in("bob")
    assert one.post("/experiments/1/comments/1", text="x", version="2").status_code == 409


def test_a_comment_on_a_cell_stands_on_its_page_and_dots_the_grid(one):
    one.sign_in()
    name = "A.poet.neutral.centroid.L1.c=+2"
    assert one.post("/experiments/1/comments", text="odd", cell=name).status_code == 303
    assert "<p>odd</p>" in one.get(f"/experiments/1/cells/{CELL}").text
    assert "<p>odd</p>" not in one.get("/experiments/1").text
    assert one.get("/experiments/1").text.count("<sup") == 1
    assert one.post("/experiments/1/comments", text="x", cell="../x").status_code == 404
    assert comments.counts(one.board.file, 1) == {name: 1}


def test_plan_and_start_run_the_command_and_stop_ends_it(visitor, monkeypatch):
    monkeypatch.setenv(rig.PAUSE, "0.2")
    propose(visitor, FRONT, "zlt")
    visitor.sign_in()
    assert visitor.post("/experiments/7/plan").status_code == 303
    until(lambda: "Objections" in visitor.get("/experiments/7").text)
    assert "cannot be told from 0" in visitor.get("/experiments/7").text
    until(lambda: column_of(visitor, 7) == "planned")  # it has said all, and ends a little later
    assert visitor.post("/experiments/7/start", hours="1").status_code == 303
    assert visitor.post("/experiments/7/start", hours="1").status_code == 409
    until(lambda: 'class="cell rate-' in visitor.get("/experiments/7").text)
    assert column_of(visitor, 7) == "running"
    assert visitor.post("/experiments/7/archive", away="yes").status_code == 409
    assert visitor.post("/experiments/7/stop").status_code == 303
    until(lambda: column_of(visitor, 7) == "planned")
    html = visitor.get("/experiments/7").text
    assert "Interrupted." in html
    assert "Run asked to stop" in html
    monkeypatch.setenv(rig.PAUSE, "0")
    assert visitor.post("/experiments/7/start", hours="1").status_code == 303
    until(lambda: column_of(visitor, 7) == "judged")
    run = entries.entry(visitor.board.file, 7).directory
    states = [a.state for a in read_ledger(run).attempts]
    assert states.count("done") == 30  # nothing was done twice


def test_a_failed_start_says_why(visitor, monkeypatch):
    monkeypatch.setenv(rig.BREAK, "A.poet.neutral.none")
    propose(visitor, FRONT, "zlt")
    visitor.sign_in()
    visitor.post("/experiments/7/start", hours="1")
    html = until(
        lambda: (
            (text := visitor.get("/experiments/7").text) and "ended with code 4" in text and text
        )
    )
    assert "prompt of cell/A.poet.neutral.none is empty" in html
    assert "1 unit failed" in html


def test_without_an_experiment_nothing_can_be_started(visitor):
    propose(visitor, FRONT)
    visitor.sign_in()
    assert visitor.post("/experiments/7/start", hours="1").status_code == 409
    assert visitor.post("/experiments/7/attach", experiment="/etc/passwd").status_code == 409
    assert visitor.post("/experiments/7/stop").status_code == 409


def test_the_pulse_beats_when_something_happens(one, monkeypatch):
    monkeypatch.setattr(live, "POLL_SECONDS", 0.0)
    before = live.pulse(one.board, 1)
    assert live.pulse(one.board, 1) == before
    comments.add(one.board.file, 1, "ada", "hello")
    after = live.pulse(one.board, 1)
    assert after != before
    (entries.entry(one.board.file, 1).directory / "results" / "verdict.json").write_text("{}")
    assert live.pulse(one.board, 1) != after


def test_too_many_open_pages_are_turned_away(one, monkeypatch):
    monkeypatch.setattr(live, "MOST_STREAMS", 0)
    assert one.get("/events").status_code == 503
    assert one.get("/experiments/77/events").status_code == 404


def test_two_hundred_runs_are_listed_and_only_read_once(visitor, judged_run):
    for i in range(200):
        place = visitor.runs / f"run-{i:03d}"
        place.mkdir()
        for name in ("experiment.lock.json", "ledger.sqlite"):
            shutil.copy(judged_run / name, place / name)
    began = time.monotonic()
    html = visitor.get("/").text
    first = time.monotonic() - began
    assert html.count('<li class="card">') == 200
    assert first < 20  # measured under 1 s on two cores; see docs/board.md
    visitor.get("/?text=nothing")


def test_a_curve_of_many_steps_is_averaged_down_and_a_name_is_escaped():
    svg = str(losses((("A", (("x<y", (2.0,) * 5000),)),)))
    assert len(svg) < 12_000
    assert "x&lt;y" in svg


def test_a_board_draws_what_has_not_changed_only_once():
    asked = (("A", (("librarian", (2.0, 1.0)),)),)
    assert losses(asked) is losses(asked)
