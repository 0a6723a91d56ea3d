"""Text from strangers: it acts on no terminal, hides on no page, runs in no spreadsheet."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerproof.text import byte_unit, clean, clean_line, neutralise_csv, reveal

ESC = "\x1b"
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize(
    ("hostile", "left"),
    [
        (f"{ESC}[31mred{ESC}[0m", "red"),
        (f"{ESC}]52;c;ZXZpbA==\x07safe", "safe"),  # writes the clipboard
        (f"{ESC}]8;;http://evil{ESC}\\link{ESC}]8;;{ESC}\\", "link"),  # a forged link
        (f"{ESC}]0;title\x07x", "x"),
        (f"{ESC}P+q544e{ESC}\\x", "x"),
        ("\x9b31mred", "red"),
        ("\x9d52;c;ZXZpbA==\x9cx", "x"),
        (f"{ESC}[2J{ESC}[Hx", "x"),
        (f"a{ESC}cb", "ab"),
        ("back\x08\x08space\rreturn", "backspacereturn"),
        ("bell\x07 nul\x00", "bell nul"),
        (f"{ESC}]never ended", "never ended"),
        ("\u202egnp.exe", "gnp.exe"),
        ("a\u2066b\u2069c\u200f", "abc"),
        ("line\u2028next", "line next"),
        ("tag\U000e0041\U000e007f", "tag"),
        ("lone \ud800 half", "lone \ufffd half"),
        ("kept\n\tas it is: é 中 🙂", "kept\n\tas it is: é 中 🙂"),
    ],
)
def test_a_terminal_sees_only_the_visible_text(hostile, left):
    assert clean(hostile) == left


@given(st.text(alphabet=st.characters() | st.sampled_from(ESC + "[]\\;m\x07\x9b\x9c\x9d" + BIDI)))
def test_nothing_that_is_left_can_act_on_a_terminal(text):
    left = clean(text)
    acting = {c for c in left if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    assert not acting
    assert not set(left) & set(BIDI)
    assert clean(left) == left
    left.encode()


def test_a_name_cannot_forge_another_line():
    assert clean_line("villain\n  judge  done") == "villain judge done"


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b\x00\x7f\x85" + BIDI)))
def test_a_page_shows_what_would_be_invisible(text):
    shown = reveal(text)
    assert not {c for c in shown if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t"}
    assert not set(shown) & set(BIDI)
    assert len(shown) >= len(text)


def test_what_a_model_emitted_can_be_told_apart():
    assert reveal("a\x1b[31m\u202eb") == "a␛[31m⟨U+202E⟩b"


@pytest.mark.parametrize(
    "formula", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1", "=-1"]
)
def test_a_spreadsheet_runs_no_field(formula):
    assert neutralise_csv(formula) == "'" + formula


@pytest.mark.parametrize("data", ["-1.25", "+0.5", "-3e-4", "A", "ratio=+0.2", "", "0"])
def test_numbers_and_words_stay_as_they_are(data):
    assert neutralise_csv(data) == data


@pytest.mark.parametrize("odd", ["-inf", "+nan", "-1_0", "- 1"])
def test_what_only_looks_like_a_number_is_neutralised(odd):
    assert neutralise_csv(odd) == "'" + odd


def test_small_files_are_counted_in_megabytes():
    assert byte_unit(170_000.0) == (1e-6, " MB")
    assert byte_unit(7e8) == byte_unit(None) == (1e-9, " GB")
