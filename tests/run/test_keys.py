"""Units of the proposal's experiment keep their keys, whatever grids can ask for besides."""

import json
from pathlib import Path

import pytest

from steerproof.codec import canonical, from_values
from steerproof.run.graph import environment
from steerproof.run.graph.environment import Place
from steerproof.run.graph.inputs import Slices
from steerproof.run.graph.sources import Sources
from steerproof.run.graph.units import experiment_graph
from steerproof.run.stages.inputs import CellInputs
from steerproof.spec.draws import bystanders
from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.grid import cells
from steerproof.spec.lock import resolved
from steerproof.spec.strength import NONE, Strength
from steerproof.spec.yaml_io import load_experiment

KEYS = Path(__file__).parents[1] / "data" / "zlt-keys.json"
"""The beginning of every unit's key by id, from before there were cells off the diagonal; source
files, model and libraries stubbed as below."""
SHIPPED = Path(__file__).parents[2] / "experiments"
ARMS = ("A", "B", "C", "A-iso", "A-L10")


_MODELLED = ("torch", "transformers")
LIBRARIES = {
    "directions": _MODELLED,
    "answers": (*_MODELLED, "numpy"),
    "dataset": (),
    "adapter": (*_MODELLED, "numpy"),
    "cell": (*_MODELLED, "numpy"),
    "score": ("numpy", "scipy"),
    "analysis": ("numpy", "scipy"),
}
"""What the stages of then imported: an import more is another environment, not another unit."""


def sources_of_then(kind: str) -> Sources:
    packages = frozenset(LIBRARIES.get(kind, ()))
    files = {"steerproof.model": Path()} if "torch" in packages else {}
    return Sources(files=files, packages=packages)


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(environment, "model_hashes", lambda *_: {"model.safetensors": "0"})
    monkeypatch.setattr(environment, "sources", sources_of_then)
    monkeypatch.setattr(environment, "_code_version", lambda _: "code")
    monkeypatch.setattr(environment, "_installed", lambda _: "1")
    monkeypatch.setattr(environment, "_NUMERICS", (*_MODELLED, "numpy", "scipy"))
    return json.loads(KEYS.read_bytes())


def shipped() -> Experiment:
    return load_experiment(SHIPPED / "zlt.yaml").experiment


def as_proposed() -> Experiment:
    """The arms and the grids of the proposal alone."""
    whole = shipped()
    arms = tuple(arm for arm in whole.arms if arm.name in ARMS)
    changes = {"arms": arms, "cells": whole.cells[:3]}
    return whole.model_copy(update=changes)


def keys_of(experiment: Experiment) -> dict[str, str]:
    graph = experiment_graph(experiment, Place(directory=SHIPPED))
    return {str(unit): key[:16] for unit, key in graph.keys.items()}


def test_every_unit_of_the_proposal_has_the_key_that_it_had(expected: dict[str, str]) -> None:
    assert keys_of(as_proposed()) == expected


def test_what_is_measured_besides_leaves_every_adapter_and_cell_its_key(
    expected: dict[str, str],
) -> None:
    small = as_proposed()
    more = small.model_copy(
        update={
            "arms": (*small.arms, Arm(name="base", untrained=True)),
            "cells": (
                *small.cells,
                small.cells[0].model_copy(
                    update={"strengths": (Strength.parse("ratio=+0.2"),), "of": "all", "samples": 1}
                ),
                small.cells[1].model_copy(update={"strengths": (NONE,), "prompt_of": "all"}),
            ),
            "seeds": (0, 1),
        }
    )
    found = keys_of(more)
    gathered = {"score/all", "analysis/all"}
    assert {unit: found[unit] for unit in expected.keys() - gathered} == {
        unit: key for unit, key in expected.items() if unit not in gathered
    }
    assert "adapter/A.villain.s1" in found


def test_the_shipped_experiment_keeps_the_proposals_adapters_and_cells(
    expected: dict[str, str],
) -> None:
    found = keys_of(shipped())
    gathered = {"score/all", "analysis/all"}
    assert {unit for unit in expected if found.get(unit) != expected[unit]} <= gathered


def test_seeds_that_draw_their_data_from_one_share_it_and_nothing_that_is_trained(
    expected: dict[str, str],
) -> None:
    """And a data_seed that is the seed changes no key."""
    small = as_proposed()
    assert keys_of(small.model_copy(update={"data_seed": small.seed})) == expected
    other = small.model_copy(update={"seed": 1, "data_seed": small.seed})
    found = keys_of(other)
    shared = {unit for unit, key in found.items() if key == expected[unit]}
    data = ("directions/", "answers/", "dataset/")
    assert shared == {unit for unit in expected if unit.startswith(data)}
    assert bystanders(other, "villain") == bystanders(small, "villain")
    (cell,) = (cell for cell in cells(other) if cell.name == "A.villain.neutral.none")
    asked = from_values(CellInputs, Slices(other, SHIPPED).cell(cell, 1), "inputs")
    assert (asked.seed, asked.drawing_seed) == (1, 0)  # fresh random directions are shared


def test_the_proposals_experiment_resolves_to_what_was_locked() -> None:
    fields = resolved(as_proposed())
    assert b"untrained" not in canonical(fields)
    assert not {"of", "prompt_of", "draws", "samples"} & set(fields["cells"][0])
