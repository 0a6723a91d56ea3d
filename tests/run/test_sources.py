"""A unit's code version covers what its stage imports, and only that."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steerproof.run.graph import environment, sources
from steerproof.run.graph.environment import APART
from steerproof.run.graph.sources import sources_of
from steerproof.run.graph.units import KINDS

# Ours only are forgotten between two kinds: torch takes seconds to import.
_IMPORT_EACH = """
import importlib, json, sys
found = {}
for kind in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "steerproof"]:
        del sys.modules[name]
    importlib.import_module(f"steerproof.run.stages.{kind}")
    found[kind] = [name for name in sys.modules if name.partition(".")[0] == "steerproof"]
print(json.dumps(found))
"""


def test_every_module_that_a_stage_loads_is_part_of_its_code_version_or_named_as_apart() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH, *KINDS], check=True, capture_output=True, text=True
    )
    for kind, loaded in json.loads(ran.stdout).items():
        covered = environment.sources(kind).files
        assert set(loaded) - set(covered) <= set(APART), kind
        assert f"steerproof.run.stages.{kind}" in covered


def test_modules_apart_exist_and_none_of_them_holds_a_stage() -> None:
    for name in APART:
        assert name in sources_of(name).files
        assert not name.startswith(("steerproof.run.stages", "steerproof.spec"))


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's source, to be edited."""
    there = tmp_path / sources.ROOT.name
    shutil.copytree(sources.ROOT, there, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    monkeypatch.setattr(sources, "ROOT", there)
    return there


def versions() -> dict[str, str]:
    return {kind: uncached(kind).version() for kind in KINDS}


def uncached(kind: str) -> sources.Sources:
    return environment.sources.__wrapped__(kind)


EDITS = {
    "model/steering.py": {"directions", "answers", "adapter", "cell", "slots"},
    "engine/train.py": {"adapter"},
    "study/readouts/marker.py": {"score"},
    "decide/analysis/rule.py": {"analysis"},
    "spec/seeds.py": set(KINDS) - {"graded"},
    "decide/report/page.py": set(),
    "run/store/hold.py": set(),
    "cli/__init__.py": set(),
}


def test_an_edit_redoes_the_kinds_that_use_the_module(copy: Path) -> None:
    for edited, kinds in EDITS.items():
        before = versions()
        with (copy / edited).open("a") as file:
            file.write("\n# edited\n")
        after = versions()
        assert {kind for kind in KINDS if after[kind] != before[kind]} == kinds, edited


def test_an_import_inside_of_a_function_counts_and_one_for_types_only_does_not(copy: Path) -> None:
    (copy / "text.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "import numpy.random\n"
        "if TYPE_CHECKING:\n    import torch\n    from steerproof.decide.report import wording\n"
        "def late():\n    from steerproof.spec import seeds\n    import scipy\n"
    )
    found = sources_of("steerproof.text")
    assert "steerproof.spec.seeds" in found.files
    assert "steerproof.decide.report.wording" not in found.files
    assert found.packages >= {"numpy", "scipy"}
    assert "torch" not in found.packages
