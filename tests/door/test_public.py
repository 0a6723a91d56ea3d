"""The public list: sorted, complete, typed, and light to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import steerproof as sp

SOURCE = Path(sp.__file__)
ROOT = SOURCE.parents[2]


def test_the_list_is_sorted_and_every_name_of_it_can_be_had_and_says_what_it_is():
    assert sp.__all__ == sorted(sp.__all__)
    assert set(sp.__all__) == set(sp._PLACES)
    for name in sp.__all__:
        value = getattr(sp, name)
        assert value.__doc__, name
        assert value.__module__.startswith("steerproof."), name


def test_the_types_that_are_told_are_those_of_the_list():
    tree = ast.parse(SOURCE.read_text("utf-8"))
    (told,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {
        alias.name: f"steerproof.{sp._PLACES[alias.name]}"
        for node in told.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module == f"steerproof.{sp._PLACES[alias.name]}"
    }
    assert set(names) == set(sp.__all__)


def test_every_function_and_class_of_the_door_is_in_the_list_unless_it_is_for_the_door_alone():
    inside = {"AnyAdapter", "ShownAnalysis", "ShownVerdict"}
    helpers = {"adapter_in", "completion_table", "head_html", "name_of", "rate_table", "rows_of"}
    found = set()
    for path in (SOURCE.parent / "door").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.add(node.name)
    assert found - inside - helpers - {"shown", "weights_of"} <= set(sp.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sp.nothing
    assert "load" in dir(sp)


def test_importing_the_package_takes_no_torch_and_under_three_tenths_of_a_second():
    look = (
        "import sys, time; began = time.perf_counter(); import steerproof;"
        "took = time.perf_counter() - began;"
        "heavy = [m for m in ('torch', 'numpy', 'pydantic', 'transformers') if m in sys.modules];"
        "print(took, *heavy)"
    )

    def measured() -> list[str]:
        told = subprocess.run(
            [sys.executable, "-c", look], capture_output=True, text=True, check=True
        )
        return told.stdout.split()

    best = min((measured() for _ in range(3)), key=lambda told: float(told[0]))
    assert best[1:] == []
    assert float(best[0]) < 0.3


def test_the_verdict_of_a_table_takes_no_torch():
    look = (
        "import sys, steerproof as sp; sp.analyze, sp.Analysis, sp.Experiment, sp.Strength;"
        "print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_the_package_is_marked_as_typed():
    assert (SOURCE.parent / "py.typed").is_file()
