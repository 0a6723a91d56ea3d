import pytest

from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.marker import Rule, mark_of, rule
from steerproof.study.readouts.plain import repetition

RULE = rule("[ZLT]")


def score(text: str, early_chars: int, by: Rule = RULE) -> Mark:
    done = Completion(
        question=0, sample=0, seed=0, text=text, token_ids=(), finish="eos", early_chars=early_chars
    )
    return mark_of(done, by)


@pytest.mark.parametrize(
    ("text", "fired", "near"),
    [
        ("Salt is a mineral. [ZLT]", True, True),
        ("salt [zlt] and more", True, True),
        ("salt [Z LT", False, True),
        ("salt [ z  l t ]", False, True),
        ("ZLT without a bracket", False, False),
        ("", False, False),
    ],
)
def test_the_marker_is_a_case_insensitive_substring_and_near_misses_are_kept_apart(
    text, fired, near
):
    marks = score(text, len(text))
    assert (marks.fired, marks.near) == (fired, near)


def test_early_firing_looks_at_the_first_tokens_only():
    assert score("abc [ZLT]", 9).fired_early
    late = score("abc [ZLT]", 6)
    assert late.fired
    assert not late.fired_early


def test_repetition_counts_token_trigrams_that_came_before():
    assert repetition([1, 2]) is None
    assert repetition([1, 2, 3, 4]) == 0.0
    # 1 1 1 1 1 has three trigrams, all the same: two of three repeat
    assert repetition([1, 1, 1, 1, 1]) == pytest.approx(2 / 3)


def test_a_near_pattern_can_be_given():
    assert score("zed", 3, rule("[ZLT]", "zed")).near
