import base64
import hashlib
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.rates import CellCounts, RateTable
from steerproof.decide.analysis.rule import Verdict
from steerproof.decide.report import page as report_page
from steerproof.decide.report import view as report_view
from steerproof.decide.report import wording
from steerproof.decide.report.figures import Drawing
from steerproof.decide.report.inputs import ReportInputs, ReportSample
from steerproof.decide.report.page import SOURCES, STYLES, build, page
from steerproof.decide.report.samples import samples
from steerproof.spec.strength import NONE, Strength
from steerproof.text import reveal
from tests.decide import report_example as example

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr", "source", "col", "embed", "area", "base"}


def telling(given: ReportInputs, **detail: Any) -> ReportInputs:
    return replace(given, detail=replace(given.detail, **detail))


def answering_to(given: ReportInputs, **registration: Any) -> ReportInputs:
    return replace(given, registration=replace(given.registration, **registration))


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, text, and unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.styles: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.text).append(data)

    @property
    def words(self) -> str:
        return "".join(self.text)

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


@pytest.fixture
def drawings() -> dict[str, Drawing]:
    return example.drawn()[0]


@pytest.fixture
def shown(drawings) -> Page:
    return Page(page(example.inputs(), drawings))


def spoken(html: str) -> str:
    """The page's text on one line."""
    return " ".join(Page(html).words.split())


def test_the_page_is_balanced_and_its_identifiers_are_unique(shown):
    assert shown.unbalanced == []
    assert shown.open == []
    identifiers = shown.values("id")
    assert len(identifiers) == len(set(identifiers))


def test_pushes_that_were_too_small_to_see_are_counted_and_named():
    plain = example.inputs()
    assert report_view.pushes_seen(plain) == ""  # nobody looked
    assert "seen to act" not in spoken(page(plain, example.drawn()[0]))
    small = "too small to verify here"
    steered = [one.cell.strength != NONE for one in plain.detail.fluency]
    seen = [
        replace(one, push="verified" if s else "none")
        for one, s in zip(plain.detail.fluency, steered, strict=True)
    ]
    pushed = sum(steered)
    assert report_view.pushes_seen(telling(plain, fluency=seen)) == f"{pushed} of {pushed}"
    first = next(i for i, s in enumerate(steered) if s)
    seen[first] = replace(seen[first], push=small)
    cell = seen[first].cell
    said = spoken(page(telling(plain, fluency=seen), example.drawn()[0]))
    assert f"fixed text: {pushed - 1} of {pushed}. The others arrived" in said
    assert f"arm {cell.arm}, {cell.prompt} prompt, {cell.direction} {cell.strength}: 1" in said


def test_nothing_in_the_page_refers_outside_it(shown):
    identifiers = set(shown.values("id"))
    for name in ("href", "src", "action", "srcset", "poster", "data", "xlink:href"):
        for value in shown.values(name):
            assert value.startswith("#"), (name, value)
            assert value[1:] in identifiers
    urls = [u for _, _, v in shown.attributes for u in re.findall(r"url\((.*?)\)", v)]
    assert urls
    assert all(url.startswith("#") for url in urls)
    assert "url(" not in "".join(shown.styles)
    assert "@import" not in "".join(shown.styles)


def test_the_page_has_no_script_and_no_inline_style_that_its_policy_would_block(shown):
    assert (
        set(shown.tags) & {"script", "iframe", "object", "embed", "link", "base", "form"} == set()
    )
    names = {name for _, name, _ in shown.attributes}
    assert not {name for name in names if name.startswith("on") or name == "style"}


def test_the_policy_names_the_style_sheet_by_its_hash_and_forbids_the_rest(shown):
    policy = next(
        value
        for (tag, name, value), (_, _, before) in zip(
            shown.attributes[1:], shown.attributes, strict=False
        )
        if tag == "meta" and name == "content" and before == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256("".join(shown.styles).encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": f"'sha256-{digest}'",
    }
    assert shown.tags["style"] == 1


def test_hostile_completions_and_questions_are_shown_as_text(drawings):
    given = example.inputs()
    for hostile in example.HOSTILE:
        (first, *_) = given.detail.completions
        one = replace(first, question=hostile, text=f"Salt. {hostile}", fired=False)
        shown = Page(page(telling(given, completions=(one,)), drawings))
        text = reveal(hostile).replace("[ZLT]", "").strip()
        assert shown.words.replace("[ZLT]", "").count(text) == 2
        assert (shown.tags["img"], shown.tags["h1"], shown.tags["i"]) == (0, 1, 0)
        for character in "\u2028\u2029\u202e\x1b\x00":
            assert character not in shown.words


def test_six_completions_are_shown_and_no_two_of_one_persona_while_others_are_left():
    chosen = samples(example.inputs())
    assert len(chosen) == 6
    personas = [one.completion.cell.persona for one in chosen]
    assert len(set(personas)) == 6
    assert {one.completion.fired for one in chosen} == {True, False}


def test_a_long_completion_is_cut_round_its_marker_and_without_one_its_end_is_shown():
    given = example.inputs()
    long = "word " * 400
    cell = given.detail.completions[0].cell
    texts = {"marked": f"{long}[zlt] {long}", "plain": f"{long}the end"}
    cut = {}
    for name, text in texts.items():
        one = ReportSample(cell=cell, question="q", text=text, fired=False, finish="eos")
        (cut[name],) = samples(telling(given, completions=(one,)))
    before, marker, after = cut["marked"].parts
    assert marker == ("[zlt]", True)
    assert before[0].startswith("… ")
    assert after[0].endswith(" …")
    assert 300 < sum(len(text) for text, _ in cut["marked"].parts) < 400
    assert "".join(text for text, _ in cut["plain"].parts).endswith("word the end")


def test_no_path_of_the_authors_machine_is_shown(drawings):
    given = example.inputs()
    arms = tuple(
        arm.model_copy(update={"adapters": "/home/someone/secret/adapters"})
        for arm in given.experiment.arms
    )
    model = given.experiment.model.model_copy(update={"path": "/home/someone/secret/model"})
    local = given.experiment.model_copy(update={"model": model, "arms": arms})
    html = page(replace(given, experiment=local), drawings)
    assert "/home" not in html
    assert "loaded: adapters" in html


def test_hostile_text_of_the_experiment_changes_no_element(drawings, shown):
    hostile = " ".join(example.HOSTILE)
    given = example.inputs()
    changed = given.experiment.model_copy(
        update={"title": hostile, "hypothesis": hostile, "neutral_prompt": hostile}
    )
    analysis = replace(given.analysis, reason=hostile, reading=hostile, notes=(hostile,))
    worse = Page(
        page(
            replace(
                given,
                experiment=changed,
                analysis=analysis,
                origin=replace(given.origin, versions={hostile: hostile}),
                objections=[
                    replace(given.objections[0], code=hostile, finding=hostile, remedy=hostile)
                ],
            ),
            drawings,
        )
    )
    grown = worse.tags - shown.tags
    assert set(grown) <= {"li", "dt", "dd", "span"}  # one note more, other versions
    assert worse.unbalanced == []


def test_the_marker_is_highlighted_in_any_case_and_the_rest_is_left_alone(drawings):
    given = example.inputs()
    cell = given.detail.completions[0].cell
    text = "one [zlt]<i>two</i> [ZLT] [ZL]"
    completion = ReportSample(cell=cell, question="q", text=text, fired=True, finish="eos")
    html = page(telling(given, completions=(completion,)), drawings)
    assert "<pre>one <mark>[zlt]</mark>&lt;i&gt;two&lt;/i&gt; <mark>[ZLT]</mark> [ZL]</pre>" in html


def test_a_marker_with_markup_in_it_is_still_text(drawings):
    given = example.inputs()
    marked = given.experiment.model_copy(update={"marker": "<b>&"})
    cell = given.detail.completions[0].cell
    completion = ReportSample(cell=cell, question="q", text="x <B>& y", fired=True, finish="length")
    html = page(telling(replace(given, experiment=marked), completions=(completion,)), drawings)
    assert "<pre>x <mark>&lt;B&gt;&amp;</mark> y</pre>" in html


def test_the_same_inputs_give_the_same_page_and_the_same_files(drawings):
    report = build(example.inputs())
    assert report.html == page(example.inputs(), drawings)
    drawn = {name: d for name, d in drawings.items() if isinstance(d, Drawing)}
    assert report.figures == {name: found.svg for name, found in drawn.items()}
    for found in drawn.values():
        assert report.html.count(found.inline) == 1


@pytest.mark.parametrize(
    ("word", "lead", "sign"),
    [
        ("SUPPORTED", "As registered: SUPPORTED (rho 0.84, interval", "✓"),
        ("REFUTED", "As registered: REFUTED (no correlation; rho 0.24", "✕"),
        ("INCONCLUSIVE", "As registered: INCONCLUSIVE (rho 0.83, no interval)", "?"),
    ],
)
def test_each_verdict_comes_first_in_one_sentence_with_its_reading(word, lead, sign, drawings):
    given = verdicts()[word]
    assert given.analysis.verdict == word
    html = page(given, drawings)
    body = html[html.index('id="answers"') : html.index('class="tiles"')]
    text = spoken(body[body.index(">") + 1 :])
    plain = {"SUPPORTED": "holds", "REFUTED": "fails", "INCONCLUSIVE": "stays open"}[word]
    rule = f"By the rule that was fixed beforehand, the claim {plain}."
    assert text.startswith(f"As registered {sign}{word} {rule} {lead}")
    assert f"What that means. {wording.sentence(given.analysis.reading)}" in text
    assert html.index(lead) < html.index("<figure")


def test_a_kill_in_the_verdict_is_explained(drawings):
    text = spoken(page(example.inputs(effect=0.0), drawings))
    assert "As registered: REFUTED (no correlation; rho 0.24" in text
    assert "That is: the steered ranking does not follow the bridge." in text


def verdicts() -> dict[str, ReportInputs]:
    """One run for each verdict, from the same rig."""
    given = example.inputs()
    return {
        "SUPPORTED": given,
        "REFUTED": example.inputs(effect=0.0),
        "INCONCLUSIVE": example.without_cells(given, "A", "villain"),
    }


def test_the_numbers_beside_the_verdict_are_those_of_the_analysis(shown):
    primary = example.inputs().analysis.arms["A"].primary
    text = " ".join(shown.words.split())
    assert f"Spearman’s ρ, arm A at c=+2 {primary.rho:+.2f}" in text
    assert primary.interval is not None
    low, high = primary.interval
    assert f"registered (these personas) {low:+.2f} to {high:+.2f}" in text
    assert "Personas ranked n = 10" in text
    assert "Cells measured 232 of 232" in text


def test_missing_cells_are_called_not_measured_and_never_zero(drawings):
    given = example.without_cells(example.inputs(), "A", "villain")
    text = spoken(page(given, drawings))
    assert "Cells measured 226 of 232" in text
    assert "n = 9 missing: villain" in text
    lines = {line.kind: line.values for line in report_view.rate_lines(given)}
    place = [p.name for p in given.experiment.personas].index("villain")
    for kind, values in lines.items():
        measured = re.fullmatch(r"\d+/40", values[place])
        assert (values[place] == "not measured") if kind.arm == "A" else measured, kind
    assert "not asked" in next(v for k, v in lines.items() if k.arm == "B")


def test_a_strength_spelt_in_another_way_is_the_same_cell():
    def spelt_anew(strength: Strength) -> Strength:
        return Strength.parse(str(strength).replace("+2", "+2.0"))

    given = example.inputs()
    grids = tuple(
        grid.model_copy(update={"strengths": tuple(spelt_anew(s) for s in grid.strengths)})
        for grid in given.experiment.cells
    )
    spelt = replace(given, experiment=given.experiment.model_copy(update={"cells": grids}))
    assert report_view.coverage(spelt) == report_view.coverage(given) == (232, 232)


def test_a_table_of_totals_has_a_report_that_says_why_there_is_no_interval():
    given = example.inputs()
    totals = RateTable(
        cells={
            cell: CellCounts(
                coefficient=counts.coefficient,
                questions=None,
                fired=(sum(counts.fired),),
                total=(sum(counts.total),),
            )
            for cell, counts in given.rates.cells.items()
        }
    )
    analysis, answers = conclude(totals, given.experiment)
    bare = ReportInputs(
        experiment=given.experiment, rates=totals, analysis=analysis, answers=answers
    )
    html = build(bare).html
    text = spoken(html)
    assert "registered (these personas) undefined" in text
    assert (analysis.arms["A"].primary.reason or "no reason") in text
    assert "no interval" in text
    for words in (
        "not measured: no fluency rows were given",
        "not measured: no calibration was given",
        "not measured: no adapter was trained in this run",
        "Not shown: no completions were given",
        "Not registered. There is no lock",
    ):
        assert words in text
    assert re.search(r"\b(None|nan|null)\b", text) is None
    assert Page(html).unbalanced == []


def test_undefined_kills_show_their_reason(drawings):
    given = example.without_cells(example.inputs(), "A", "villain")
    rows = {row.name: row for row in report_view.kill_rows(given, "A")}
    undecided = [row for row in rows.values() if row.state == "undecided"]
    assert undecided
    text = spoken(page(given, drawings))
    for row in undecided:
        assert row.reason
        assert row.reason in text


def test_a_kill_shows_the_numbers_and_the_limit_that_decided_it():
    row = next(
        r for r in report_view.kill_rows(example.inputs(), "A") if r.name == "no_correlation"
    )
    rho = example.inputs().analysis.arms["A"].kills["no_correlation"].numbers["rho"]
    assert (row.state, row.limit) == ("not fired", "ρ < 0.4")
    assert row.numbers == (("ρ", f"{rho:+.2f}"),)


def test_deviating_results_are_kept_apart_from_registered_ones(drawings):
    given = example.inputs()
    text = spoken(page(given, drawings))
    assert "The experiment was changed once after it was locked" in text
    assert "No result answers to the locked experiment alone" in text
    registered = replace(given.analysis, verdict=Verdict.REFUTED, reason="as it was locked")
    both = spoken(page(answering_to(given, analysis=registered), drawings))
    assert "By the locked rule, the verdict is REFUTED: as it was locked" in both
    clean = spoken(page(answering_to(given, deviations=()), drawings))
    assert "every result above is as registered" in clean
    assert "Deviating" not in clean


def test_numbers_in_words_never_turn_a_missing_value_into_zero():
    for tell in (wording.signed, wording.plain, wording.fixed, wording.bounds, wording.percent):
        assert tell(None) == "undefined"
    assert wording.probability(None) == "undefined"
    assert wording.probability(1e-7) == "< 0.0001"
    assert wording.signed(-0.5) == "−0.50"
    assert wording.duration(3723.0) == "1 h 2 min 3 s"
    assert wording.duration(0.2) == "0 s"
    assert wording.duration(None) == "not measured"


def test_a_page_is_made_from_the_files_that_it_says(drawings, monkeypatch, tmp_path):
    templates = {"report.html.j2", "first.html.j2", "details.html.j2", "parts.html.j2"}
    assert {path.name for path in SOURCES} == {*templates, "report.css", "design.css"}
    assert all(path.is_file() for path in SOURCES)
    html = page(example.inputs(), drawings)
    for place, path in enumerate(STYLES):
        changed = tmp_path / path.name
        changed.write_text(path.read_text(encoding="utf-8") + "/* changed */", encoding="utf-8")
        styles = [changed if i == place else style for i, style in enumerate(STYLES)]
        monkeypatch.setattr(report_page, "STYLES", styles)
        assert page(example.inputs(), drawings) != html


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_opens_the_page_without_request_dialog_error_or_blocked_style(drawings, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(example.inputs(), drawings), encoding="utf-8")
    seen: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        tab.on("request", lambda request: seen.append(request.url))
        tab.on("dialog", lambda dialog: seen.append(f"dialog {dialog.message}"))
        tab.on("console", lambda message: seen.append(f"console {message.text}"))
        tab.on("pageerror", lambda error: seen.append(f"error {error}"))
        tab.goto(path.as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        width = tab.evaluate("document.documentElement.scrollWidth")
        clipped = tab.evaluate(_TEXT_OUTSIDE_ITS_FIGURE)
        browser.close()
    assert seen == [path.as_uri()]
    assert width == 390  # a phone scrolls inside figures and tables, never the page
    assert clipped == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_first_screen_holds_the_answers_and_two_figures_and_paper_is_eight_pages(
    drawings, tmp_path
):
    path = tmp_path / "report.html"
    path.write_text(page(example.inputs(), drawings), encoding="utf-8")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        tab.goto(path.as_uri())
        ends = tab.evaluate(
            "[...document.querySelectorAll('#figures .canvas')]"
            ".map(one => one.getBoundingClientRect().bottom)"
        )
        folded = tab.evaluate("document.querySelectorAll('#rest > details[open]').length")
        tab.click("nav a[href='#kills']")
        opened = tab.evaluate("document.querySelectorAll('#rest > details[open] #kills').length")
        paper = tab.pdf(format="A4")
        browser.close()
    assert len(ends) == 2
    assert max(ends) <= 1000
    assert (folded, opened) == (0, 1)
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) <= 8


_TEXT_OUTSIDE_ITS_FIGURE = """() => {
  const out = []
  for (const svg of document.querySelectorAll("figure svg")) {
    const box = svg.getBoundingClientRect()
    for (const text of svg.querySelectorAll("text")) {
      const at = text.getBoundingClientRect()
      if (at.left < box.left - 1 || at.right > box.right + 1) out.push(text.textContent)
      if (at.top < box.top - 1 || at.bottom > box.bottom + 1) out.push(text.textContent)
    }
  }
  return out
}"""
