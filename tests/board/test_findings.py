"""What a page says of what was found: the list, the table, a comparison, figures."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from steerproof.board import cards, entries, recipe
from steerproof.run.artefacts.verdict import read_head
from steerproof.spec.experiment import Model, Training
from steerproof.spec.judging import AnalysisSettings
from tests.board import rig
from tests.board.conftest import until
from tests.board.test_pages import column_of, propose
from tests.board.test_proposals import FRONT

LINES = [
    "As registered: REFUTED (no_correlation; rho 0.34, interval -0.15 to 0.46).",
    "The ranking cannot be answered: the bridge has no reliable order.",
    "The adapters read their own direction: 1.00 own, 0.20 other personas.",
]


def answered(run, registered="REFUTED", ranking="CANNOT ANSWER", reads="reads its own direction",
             rho=0.34):  # fmt: skip
    """Publish a verdict with three answers."""
    rig.judge(
        run,
        verdict=registered,
        reading="the direction is read",
        answers={
            "lines": LINES,
            "ranking": {"answer": ranking, "strength": "c=+2"},
            "direction": {"reads": reads, "carries": "undecided"},
        },
        arms={"A": {"primary": {"strength": "c=+2", "rho": rho, "interval": [rho - 0.49, 0.46]},
                    "co_primary": None}},
    )  # fmt: skip


@pytest.fixture
def two(visitor, judged_run):
    """#1 is REFUTED and its direction is read; #2, another model, says otherwise."""
    answered(visitor.add(judged_run, "a"))
    other = rig.tiny_experiment(
        title="Another", seed=7, model=Model(path="models/other", blocks=4),
        training=Training(learning_rate=3e-3, rank=8),
    )  # fmt: skip
    run = rig.finished_run(visitor.runs / "b", other)
    answered(run, "SUPPORTED", "SUPPORTED", "reads any push", 0.9)
    visitor.get("/")
    return visitor


def words(html):
    return re.findall(r'<span class="answer (\w+)">([^<]+)</span>', html)


def test_the_list_says_all_three_answers_not_the_registered_one_alone(two):
    assert words(two.get("/").text) == [
        ("yes", "SUPPORTED"), ("yes", "SUPPORTED"), ("no", "reads any push"),
        ("no", "REFUTED"), ("open", "cannot answer"), ("yes", "reads its own direction"),
    ]  # fmt: skip


def test_an_experiment_begins_with_what_was_found(two):
    html = two.get("/experiments/1").text
    found = html[html.index('aria-label="Verdict"') : html.index('id="grid"')]
    assert found.index("The direction is read.") < found.index("As registered: REFUTED")
    for line in LINES:
        assert line in found


def test_a_verdict_of_before_there_were_three_answers_has_one(visitor, judged_run):
    visitor.add(judged_run, "old")
    assert words(visitor.get("/").text) == [
        ("yes", "SUPPORTED"), ("none", "not judged"), ("none", "not judged"),
    ]  # fmt: skip


def table(visitor, query):
    html = visitor.get(f"/table?{query}").text
    return [int(n) for n in re.findall(r'<td class="mono">#(\d+)</td>', html)], html


@pytest.mark.parametrize(
    ("column", "up"),
    [("number", [1, 2]), ("model", [2, 1]), ("seed", [1, 2]), ("registered", [2, 1]),
     ("ranking", [2, 1]), ("direction", [1, 2]), ("rho", [1, 2]), ("title", [2, 1])],
)  # fmt: skip
def test_all_runs_are_a_table_sorted_by_any_column(two, column, up):
    listed, html = table(two, f"sort={column}&order=up")
    assert listed == up
    assert 'aria-sort="ascending"' in html
    assert table(two, f"sort={column}&order=down")[0] == up[::-1]


def test_the_table_says_model_seed_recipe_answers_and_correlation(two):
    _, html = table(two, "text=another")
    row = html[html.index("<tbody>") :]
    for text in ("<td>other</td>", "<td>7</td>", "lr 0.003, rank 8", "ρ 0.90 (0.41 to 0.46)"):
        assert text in row
    assert words(row)[2] == ("no", "reads any push")
    assert "No run matches" in table(two, "text=nothing")[1]
    assert table(two, "sort=/etc&order=x")[0] == [1, 2]


def test_the_recipe_names_what_differs():
    said = recipe.in_full(rig.tiny_experiment(seed=3))
    assert "seed 3, lr" in said
    assert said.endswith("layer 1")


def test_compare_says_correlation_interval_and_answers_of_both_runs(two):
    html = two.get("/compare?left=1:A&right=2:A&kind=neutral+prompt%2C+c%3D%2B2").text
    left, right = html[html.index('class="sides"') :].split("</section>")[:2]
    assert "ρ 0.34 (−0.15 to 0.46)" in left
    assert "ρ 0.90 (0.41 to 0.46)" in right
    for line in LINES:
        assert left.count(line) == right.count(line) == 1
    assert words(left)[0] == ("no", "REFUTED")
    assert "By the rule that was fixed beforehand, the claim fails." in left
    assert words(right)[2] == ("no", "reads any push")
    assert "models/other" not in right
    assert "other, seed 7, lr 0.003" in right
    assert "#2 arm C · Another</option>" in html
    none = two.get("/compare?left=1:C&right=2:C").text
    assert none.count("No registered correlation") == 2


def test_every_persona_has_its_label_in_the_comparison(two):
    chart = two.get("/compare?left=1:A&right=2:A").text
    chart = chart[chart.index('<div class="chart') : chart.index("</svg>")]
    for persona in rig.tiny_experiment().headline:
        assert f"{persona.replace('_', ' ')}</text>" in chart


def test_a_figure_has_its_own_title_and_opens_large(one_figure):
    html = one_figure.get("/experiments/1").text
    assert '<a href="/experiments/1/figures/matrix.svg/large">' in html
    assert "Each adapter &amp; each direction" in html
    assert html.index("matrix.svg") < html.index("ranking.svg")
    large = one_figure.get("/experiments/1/figures/matrix.svg/large").text
    assert '<img src="/experiments/1/figures/matrix.svg"' in large
    assert "/experiments/1/figures/ranking.svg/large" in large
    assert one_figure.get("/experiments/1/figures/..%2Fx/large").status_code == 404


@pytest.fixture
def one_figure(visitor, judged_run):
    run = visitor.add(judged_run, "one")
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><title>Each adapter &amp; each direction</title>'
    (run / "results" / "figures" / "matrix.svg").write_text(svg + "</svg>")
    visitor.get("/")
    return visitor


def test_ages_say_ago_and_are_those_of_the_run(visitor, judged_run):
    run = visitor.add(judged_run, "one")
    old = time.time() - 7200
    for path in run.rglob("*"):
        os.utime(path, (old, old))
    assert '">2.0 h ago</span>' in visitor.get("/").text
    assert cards.ago(time.time()) == "0 s ago"


# A proposal and a run of the same experiment


@pytest.fixture(scope="module")
def judged_run(tmp_path_factory):
    """A finished run whose experiment could also be loaded from a file."""
    analysis = AnalysisSettings(
        isotropic_arm=None, contrast_arm=None, co_primary_strength=None, negative_strength=None
    )
    place = tmp_path_factory.mktemp("sound") / "tiny"
    return rig.finished_run(place, rig.tiny_experiment(analysis=analysis))


def stored(run, tmp_path):
    """The run's own experiment as a file of its own."""
    record = json.loads((run / "experiment.lock.json").read_bytes())["experiment"]
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(record))
    return str(file)


def test_a_proposal_and_the_run_of_its_experiment_are_one_entry(visitor, judged_run, tmp_path):
    run = visitor.add(judged_run, "from-a-terminal")
    visitor.get("/")
    visitor.sign_in()
    visitor.post("/experiments/1/comments", text="seen before it was proposed")
    propose(visitor, FRONT, stored(run, tmp_path))
    assert visitor.get("/").text.count('<li class="card">') == 1
    assert column_of(visitor, 7) == "judged"
    html = visitor.get("/experiments/7").text
    assert "<h1>A longer prompt</h1>" in html
    assert "Run joined" in html
    assert "seen before it was proposed" in html
    assert html.count('class="cell rate-') == 20
    assert "<h1>A longer prompt</h1>" in visitor.get("/experiments/1").text
    entry = entries.entry(visitor.board.file, 1)
    assert (entry.number, entry.directory) == (7, run.resolve())


def test_a_run_that_comes_after_its_proposal_is_joined_too(visitor, judged_run, tmp_path):
    propose(visitor, FRONT, stored(judged_run, tmp_path))
    assert column_of(visitor, 7) == "proposed"
    visitor.add(judged_run, "later")
    assert column_of(visitor, 7) == "judged"
    assert [e.number for e in entries.entries(visitor.board.file)] == [7]
    shutil.copytree(visitor.runs / "later", visitor.runs / "again")
    visitor.get("/")
    assert [e.number for e in entries.entries(visitor.board.file)] == [8, 7]


def test_a_run_of_another_experiment_is_left_alone(visitor, judged_run, tmp_path):
    visitor.add(judged_run, "other")
    file = stored(judged_run, tmp_path)
    record = json.loads(Path(file).read_text())
    Path(file).write_text(json.dumps(record | {"seed": record["seed"] + 1}))
    propose(visitor, FRONT, file)
    visitor.get("/")
    assert [e.number for e in entries.entries(visitor.board.file)] == [8, 7]
    assert column_of(visitor, 7) == "proposed"


# Plan at the button


def doing(html):
    start = html.index('id="live-actions"')
    return html[start : html.index("</section>", start)]


def test_a_plan_answers_at_its_button(visitor):
    propose(visitor, FRONT, "zlt")
    visitor.sign_in()
    visitor.post("/experiments/7/plan")
    html = until(lambda: (t := doing(visitor.get("/experiments/7").text)) and "Planned:" in t and t)
    assert "20 cells" in html
    assert "time 36 s to 3 min" in html
    assert '<a href="#plan">1 objection, 1 serious</a>' in html


def test_a_plan_says_what_it_is_doing_and_why_it_failed(visitor, monkeypatch):
    monkeypatch.setenv(rig.PLAN, "timing a trial: 3 of 8")
    propose(visitor, FRONT, "zlt")
    visitor.sign_in()
    visitor.post("/experiments/7/plan")
    html = until(lambda: (t := doing(visitor.get("/experiments/7").text)) and "3 of 8" in t and t)
    assert "<strong>Planning</strong> for" in html
    assert "asked by ada" in html
    html = until(lambda: (t := doing(visitor.get("/experiments/7").text)) and "No plan." in t and t)
    assert "no such model" in html


# A proposal written in the page


def test_a_proposal_is_written_and_edited_in_the_page(visitor):
    assert "Sign in</a> to write" in visitor.get("/propose").text
    visitor.sign_in()
    given = {"title": 'Is it "read": [ZLT]? 🙂', "text": "# Why\n\nSee #1.", "tags": "a, b: c",
             "parent": "12", "kind": "", "experiment": "zlt"}  # fmt: skip
    answer = visitor.post("/proposals", **given)
    assert answer.headers["location"] == "/experiments/1"
    entry = entries.entry(visitor.board.file, 1)
    assert entry.title == given["title"]
    assert (entry.tags, entry.parent, entry.experiment) == (("a", "b: c"), 12, "zlt")
    html = visitor.get("/experiments/1").text
    assert ">Why</h3>" in html
    assert "Proposed</strong> by ada" in html
    form = visitor.get("/experiments/1/edit").text
    assert "# Why" in form
    answer = visitor.post("/experiments/1/proposal", title="Is it read?", text="Because.")
    assert answer.status_code == 303
    html = visitor.get("/experiments/1").text
    assert "<h1>Is it read?</h1>" in html
    assert "1 earlier text" in html
    assert [t for _, t in entries.texts_of(visitor.board.file, 1)][1].endswith("# Why\n\nSee #1.\n")


def test_editing_keeps_the_lineage(visitor):
    propose(visitor, FRONT)
    visitor.sign_in()
    visitor.post("/experiments/7/proposal", title="A", text="b", parent="342")
    assert entries.entry(visitor.board.file, 7).lineage == (246, 271)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"title": "", "text": ""}, "is empty"),
     ({"title": "x", "parent": "9" * 5000}, "must be a number"),
     ({"title": "x" * 600}, "at most 500"),
     ({"title": "x", "experiment": "/etc/passwd"}, "in the list"),
     ({"title": "A longer prompt"}, "#7 has that title")],
)  # fmt: skip
def test_a_wrong_proposal_comes_back_with_what_was_typed(visitor, given, says):
    propose(visitor, FRONT)
    visitor.sign_in()
    typed = given.get("text", "typed for an hour")
    answer = visitor.post("/proposals", **{"text": typed, **given})
    assert answer.status_code == 409
    assert says in answer.text
    assert f">{typed}</textarea>" in answer.text
    assert len(entries.entries(visitor.board.file)) == 1


def test_the_head_of_a_verdict_is_read_whatever_else_it_holds(visitor, judged_run):
    run = visitor.add(judged_run, "one")
    answered(run)
    head = read_head(run)
    assert head.tested.rho == 0.34
    assert head.arms["A"].at("ratio=+0.2") is None
