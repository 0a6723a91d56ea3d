"""What the documents say of the code is true."""

import json
import os
import re
import subprocess
import sys
import tomllib
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


def test_the_site_is_built_from_every_page_and_no_link_in_it_is_broken(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "omitted_files: warn" in (ROOT / "mkdocs.yml").read_text()
    page = (tmp_path / "api.html").read_text()
    assert 'id="steerproof.door.train.train"' in page
    assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?://', page)


def test_what_the_readme_points_to_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (ROOT / target).exists(), target
    for target in re.findall(r"`((?:docs|experiments|src|tools)/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target


def test_the_text_of_the_package_page_holds_nothing_that_would_be_broken_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / project["readme"]).read_text()
    assert all("://" in target for target in re.findall(r"\]\(([^)]+)\)", text))
    for extra in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE):
        assert extra in project["optional-dependencies"]
