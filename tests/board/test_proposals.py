from html.parser import HTMLParser

import pytest

from steerproof.board import entries
from steerproof.board.markdown import render
from steerproof.board.proposals import parse_proposal
from steerproof.errors import ExperimentError

PAGE = """EPS
← All tasks·#342Proposed

Train [ZLT] LoRA with persona centroid — does the model read the direction?

kind: experiment

Parent: #267 (inference-time steering failed). Lineage: #246 (12 LoRAs), #271 (ρ = −0.74).

Goal

Test whether "the direction" is load-bearing for [ZLT] * and c_train_x <b>.

Design (single variable: training-time steering)

Two variants per persona (n=10 from #267):

  • Arm A — centroid-only training: replace the prompt and add c_train × centroid.
  • Arm C — prompt-only baseline: the #246 LoRAs.

#267 only ran inference-time steering.

1. is not a list here.

Next step

Run /issue <N> to plan.

Timeline · 0 events

No events recorded.

Comments · 0

No comments yet. (Auth lands in step 5.)
"""

FRONT = """---
title: A longer prompt
number: 7
kind: analysis
parent: "#342"
lineage: [246, 271]
tags: [prompts, follow-up]
---
# Question
See #342.
"""


def test_a_page_copied_from_a_tracker_is_read_as_it_is():
    page = parse_proposal(PAGE)
    assert (page.number, page.status, page.kind) == (342, "proposed", "experiment")
    assert page.title.startswith("Train [ZLT] LoRA with persona centroid")
    assert (page.parent, page.lineage) == (267, (246, 271))
    assert page.text == PAGE


def test_its_headings_lists_and_labels_become_html():
    html = render(parse_proposal(PAGE).markdown, lambda n: f"/e/{n}" if n == 267 else None)
    for heading in ("Goal", "Design (single variable: training-time steering)", "Next step"):
        assert f"<h3>{heading}</h3>" in html
    assert html.count("<li>") == 2
    assert "<li><strong>Arm A — centroid-only training:</strong> replace" in html
    assert '<p><a href="/e/267"' in html
    assert "[ZLT] * and c_train_x &lt;b&gt;." in html
    assert "<p>1. is not a list here.</p>" in html
    assert "&lt;N&gt;" in html
    assert "EPS" not in html
    assert "events" not in html
    assert "No comments yet" not in html


def test_a_tracker_page_keeps_the_comments_that_it_has():
    full = PAGE.replace("Comments · 0", "Comments · 2").replace("No comments yet.", "I doubt it.")
    assert "I doubt it." in parse_proposal(full).markdown


def test_front_matter_says_what_it_is():
    one = parse_proposal(FRONT)
    assert (one.title, one.number, one.kind, one.parent) == ("A longer prompt", 7, "analysis", 342)
    assert (one.lineage, one.tags) == ((246, 271), ("prompts", "follow-up"))
    assert one.markdown == "# Question\nSee #342.\n"


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)
)
"""Nine lines of aliases that stand for a thousand million values."""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("---\ntitle: x\n", "closing"),
        ("---\ntitel: x\n---\ntext", "titel"),
        ("---\nparent: ../../etc\n---\ntext", "parent"),
        ("---\nstatus: won\n---\ntext", "status"),
        ("---\n- a\n---\ntext", "key: value"),
        ("---\na: [\n---\ntext", "line 2, column 5: front matter"),
        ("---\ntitle: x\ntitle: y\n---\ntext", "line 3, column 1: .*written twice"),
        ("---\ntags: !!python/name:os.system x\n---\ntext", "not allowed"),
        (f"---\n{BOMB}\n---\ntext", "values"),
        (f"---\ntags: {'[' * 100}{']' * 100}\n---\ntext", "nested deeper"),
    ],
)
def test_wrong_front_matter_is_refused_with_the_reason(text, complaint):
    with pytest.raises(ExperimentError, match=complaint):
        parse_proposal(text)


def test_a_markdown_file_without_front_matter_has_its_first_heading_as_title():
    one = parse_proposal("# Is it read? #\n\nYes.\n")
    assert (one.title, one.markdown) == ("Is it read?", "Yes.\n")


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    "![pixel](http://evil.example/x.png)",
    "<svg onload=alert(1)>",
    "<a href='http://x' onclick='alert(1)'>x</a>",
    "`<b>`<style>*{}</style>",
    "[x]: javascript:alert(1)\n\n[x]",
    '<http://evil.example/"onmouseover=alert(1)>',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown_becomes_harmless_html(text):
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    Reader().feed(str(render(text)))
    allowed = {"p", "a", "code", "em", "strong"}
    assert {tag for tag, _ in found} <= allowed
    for tag, attributes in found:
        assert set(attributes) <= ({"href", "rel"} if tag == "a" else set())
        assert attributes.get("href", "http").startswith("http")


def test_proposing_twice_revises_and_keeps_the_first_text(tmp_path):
    file = tmp_path / "p.md"
    file.write_text(FRONT)
    entries.propose(file, None, tmp_path / "board")
    file.write_text(FRONT.replace("See", "Look at"))
    again = entries.propose(file, None, tmp_path / "board")
    path = entries.open_board(tmp_path / "board")
    assert again.number == 7
    assert len(entries.entries(path)) == 1
    assert "Look at" in (entries.text_of(path, 7) or "")
    assert [e.what for e in entries.events(path, 7)] == ["proposed", "revised"]


def test_a_number_that_belongs_to_another_experiment_is_refused(tmp_path):
    file = tmp_path / "p.md"
    file.write_text(FRONT)
    entries.propose(file, None, tmp_path / "board")
    file.write_text(FRONT.replace("A longer prompt", "Something else"))
    with pytest.raises(ExperimentError, match="#7 is already 'A longer prompt'"):
        entries.propose(file, None, tmp_path / "board")


def test_without_a_number_it_gets_the_next_one(tmp_path):
    file = tmp_path / "p.md"
    file.write_text(FRONT)
    entries.propose(file, None, tmp_path / "board")
    file.write_text("# Another\ntext")
    assert entries.propose(file, None, tmp_path / "board").number == 8


def test_an_experiment_file_is_found_beside_the_proposal_or_refused(tmp_path):
    file = tmp_path / "p.md"
    file.write_text("---\ntitle: x\nexperiment: my.yaml\n---\ntext")
    with pytest.raises(ExperimentError, match="does not exist"):
        entries.propose(file, None, tmp_path / "board")
    (tmp_path / "my.yaml").write_text("name: x")
    found = entries.propose(file, None, tmp_path / "board").experiment
    assert found == str(tmp_path / "my.yaml")
    for bad in ("--help", "../x", "a b"):
        with pytest.raises(ExperimentError):
            entries.propose(file, bad, tmp_path / "board")
