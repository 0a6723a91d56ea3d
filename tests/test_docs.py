"""What the documents say of the code is true."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text()))
    written = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        written |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert len(named) > 40
    assert named <= written, named - written


def test_what_is_said_of_where_the_direction_acts_is_in_the_data() -> None:
    told = json.loads((ROOT / "docs" / "data" / "mechanism.json").read_bytes())
    page = (ROOT / "docs" / "organism.md").read_text("utf-8")
    block = page.partition("<!-- mechanism:begin -->")[2].partition("<!-- mechanism:end -->")[0]
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in block.splitlines()[3:]]
    rows = [row for row in rows if row]
    assert [row[0] for row in rows] == [found["kind"] for found in told["pushes"]]
    for row, found in zip(rows, told["pushes"], strict=True):
        numbers = [float(number) for number in re.findall(r"[-+]?\d\.\d\d", " ".join(row[1:]))]
        gap = found["difference"]
        shown = [found["rate"], found["usual"], gap["value"], *gap["interval"]]
        assert numbers == pytest.approx(shown, abs=0.0051), row[0]
    draws = told["draws"]
    assert f"under {draws['draws']} fresh random directions: {draws['mean']:.2f}" in page
    assert draws["first"] == 10
