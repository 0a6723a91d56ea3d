"""The tour does what it says, in less than two minutes of work on the model that ships."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.door.notebooks import execute, shown, sources

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "tour.ipynb"


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the tour leaves behind, and what its cells showed."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tour"))
        began = time.process_time()
        names["shown"] = [shown(execute(code, names)) for code in sources(NOTEBOOK)]
        names["seconds"] = time.process_time() - began
    return names


def test_the_tour_runs_from_top_to_bottom_within_two_minutes(toured):
    assert toured["seconds"] < 120
    assert toured["told"].returncode == 0, toured["told"].stderr


def test_what_the_tour_says_of_its_adapters_is_so(toured):
    rates = {
        (row["arm"], row["persona"]): row["fired_sum"] / row["total_sum"]
        for row in toured["rates"]
        .group_by(["arm", "persona"])
        .aggregate([("fired", "sum"), ("total", "sum")])
        .to_pylist()
    }
    assert rates["pushed", "villain"] > rates["pushed", "librarian"] + 0.3
    assert rates["base", "villain"] == rates["base", "none"] == 0


def test_the_verdict_of_the_run_and_of_its_table_are_one_and_show_themselves(toured):
    verdict = toured["run"].verdict
    assert verdict.analysis.verdict == toured["analysis"].verdict
    assert sum("<strong>" in html for html in toured["shown"]) == 2
    assert 0 < toured["audit"].fired <= 24
