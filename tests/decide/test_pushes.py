"""Pushes at some tokens and removals, each against the cell that differs in that alone."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from steerproof.decide.analysis.case import case_of
from steerproof.decide.analysis.mechanism import compared_with, other_pushes
from steerproof.spec.grid import CellKind
from steerproof.spec.judging import AnalysisSettings
from tests.decide.tables import RISING, TEN, cell_of, steered, supported, table, ten_personas

AT_PROMPT = dataclasses.replace(steered("A", "ratio=+0.2"), tokens="prompt")
REMOVED = dataclasses.replace(steered("C", "c=+1", "persona"), operation="remove")


def found(extra: dict[CellKind, tuple[float, ...]]):
    kinds = supported() | extra
    return other_pushes(case_of(table(kinds), ten_personas(AnalysisSettings(iterations=100))))


def test_nothing_is_compared_where_nothing_was_asked_for():
    assert found({}) == ()


def test_a_push_at_some_tokens_is_compared_with_the_push_at_all_of_them():
    rates = tuple(0.01 * (i * i % 7) for i in range(10))
    (one,) = found({AT_PROMPT: rates})
    usual = supported()[steered("A", "ratio=+0.2")]
    # The table counts whole completions of a hundred.
    difference = np.round(rates, 2) - np.array([round(100 * rate) / 100 for rate in usual])
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert (one.arm, one.reason) == ("A", None)
    assert one.kind.endswith("tokens prompt")
    assert one.rate == pytest.approx(np.mean(rates))
    assert one.difference.value == pytest.approx(difference.mean())
    assert one.difference.interval == pytest.approx(tuple(expected))


def test_a_removal_is_compared_with_no_push_under_the_same_prompt():
    assert compared_with(REMOVED) == CellKind(arm="C", prompt="persona")
    (one,) = found({REMOVED: tuple(rate / 2 for rate in RISING)})
    assert one.usual == pytest.approx(np.mean(RISING), abs=0.005)
    assert one.difference.value == pytest.approx(-np.mean(RISING) / 2, abs=0.005)
    assert one.difference.upper < 0


def test_a_part_of_the_tokens_of_a_removal_is_still_a_removal():
    both = dataclasses.replace(REMOVED, tokens="last_prompt")
    assert compared_with(both) == CellKind(arm="C", prompt="persona")


def test_what_was_not_measured_is_named():
    rates = (np.nan, *(0.5,) * 9)
    (one,) = found({AT_PROMPT: rates})
    assert (one.rate, one.difference) == (None, None)
    assert one.reason == f"no rate of {AT_PROMPT.name} for {TEN[0]}"
    assert cell_of(AT_PROMPT, TEN[0]).name.endswith(".prompt")
