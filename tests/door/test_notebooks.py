"""The two short notebooks run from top to bottom, and what they say is so."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.door.notebooks import execute, shown, sources

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def executed(name: str, place: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        began = time.process_time()
        names["shown"] = [shown(execute(code, names)) for code in sources(NOTEBOOKS / name)]
        names["seconds"] = time.process_time() - began
    return names


def test_a_vector_of_ones_own_is_read_pushed_and_measured(tmp_path):
    left = executed("own_vector.ipynb", tmp_path)
    assert left["seconds"] < 40
    assert left["villain"].layer == 3
    assert left["villain"].provenance.h_bar is None
    row = left["mean_states"]("You are a villain.") - left["mean_states"]("You are a librarian.")
    assert left["villain"].vector.tolist() == pytest.approx(row[4].tolist(), abs=1e-4)
    assert left["table"].num_rows == 3 * len(left["questions"])


def test_a_run_is_read_analysed_again_and_taken_out(tmp_path):
    left = executed("read_a_run.ipynb", tmp_path)
    assert left["told"].returncode == 0, left["told"].stderr
    assert left["seconds"] < 40
    assert left["again"].verdict == left["analysis"].verdict
    assert left["completions"].num_rows == 8
    assert any("<strong>" in html for html in left["shown"])
    assert (tmp_path / "villain-adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_stands_in_the_index(notebook):
    assert f"({notebook.name})" in (NOTEBOOKS / "index.md").read_text("utf-8")
