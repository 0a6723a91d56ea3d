"""A persona's direction from a file stands in place of its centroid; the rest stays as it was."""

import pytest
import torch
from torch.testing import assert_close

from steerproof.decide.analysis.calibration import layer_gate
from steerproof.errors import ExperimentError, ModelError, SteeringError
from steerproof.exchange.brought import brought, given
from steerproof.exchange.direction import Direction
from steerproof.exchange.files import export
from steerproof.exchange.shape import Shape
from steerproof.run.commands.preflight import check_runnable
from steerproof.run.graph.environment import Place
from steerproof.run.graph.names import directions_unit
from steerproof.run.graph.units import experiment_graph
from steerproof.spec.experiment import Persona
from steerproof.study.directions import extract, prompts_of
from steerproof.study.geometry import layer_geometry
from tests.exchange import reference
from tests.experiments import small_experiment
from tests.tiny import HIDDEN, LAYERS, save_tiny, tiny_base

SHAPE = Shape(model="tiny", model_type="qwen2", blocks=LAYERS, hidden_size=HIDDEN)
VECTOR = 5 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(8))


@pytest.fixture
def place(tmp_path):
    """A directory with a persona vector of every block, and an own file of two names."""
    table = torch.stack([VECTOR * (row + 1) for row in range(LAYERS + 1)])
    torch.save(table, tmp_path / "evil_response_avg_diff.pt")  # noqa: TID251 - as the field does
    two = [Direction(name=name, layer=1, vector=VECTOR) for name in ("poet", "cook")]
    for path, content in export(two, "steerproof", tmp_path / "two.safetensors").items():
        path.write_bytes(content)
    return tmp_path


def persona(name, file):
    return Persona(name=name, prompt="You are one.", direction=file)


def test_the_files_only_direction_is_the_personas_whatever_it_is_called(place):
    found = brought(persona("villain", "evil_response_avg_diff.pt"), place, SHAPE, 1)
    assert torch.equal(found.vector, VECTOR * 3)
    assert "row 2 of 5" in given(found).words
    assert "h_bar" in given(found).words


def test_of_several_directions_the_personas_own_is_taken(place):
    assert brought(persona("cook", "two.safetensors"), place, SHAPE, 1).name == "cook"
    with pytest.raises(SteeringError, match="poet, cook, and none of villain"):
        brought(persona("villain", "two.safetensors"), place, SHAPE, 1)
    with pytest.raises(SteeringError, match="blocks 1"):
        brought(persona("cook", "two.safetensors"), place, SHAPE, 2)


def test_a_given_direction_replaces_one_centroid_and_nothing_else():
    experiment, base = small_experiment(), tiny_base()
    prompts = prompts_of(experiment)
    residuals = extract(base, prompts, [1])[1]
    name, other = experiment.headline[0], experiment.headline[1]
    one = Direction(name=name, layer=1, vector=VECTOR)
    plain = layer_geometry(residuals, prompts, 0)
    mixed = layer_geometry(residuals, prompts, 0, {name: given(one)})
    assert torch.equal(mixed.vector(name), VECTOR)
    assert torch.equal(mixed.vector(other), plain.vector(other))
    assert mixed.h_bar == plain.h_bar
    assert torch.equal(mixed.directions.raw, plain.directions.raw)
    for kind in ("isotropic", "in_subspace"):
        assert_close(mixed.vector(name, kind).norm(), VECTOR.norm())
    assert_close(
        mixed.vector(name, "isotropic") / VECTOR.norm(),
        plain.vector(name, "isotropic") / plain.vector(name).norm(),
    )
    measured = mixed.calibration.personas
    assert measured[name].norm == pytest.approx(float(VECTOR.norm()))
    assert measured[name].split_half is None
    assert "unknown: " in str(measured[name].imported)
    assert measured[other].split_half == plain.calibration.personas[other].split_half
    assert measured[other].imported is None
    assert layer_gate(experiment, mixed.calibration).split_half[name] is None
    push = mixed.push(name, ratio=0.5)
    moved = reference.pushed(base, push)
    share = 0.5 * mixed.h_bar / float(VECTOR.norm())
    assert_close(moved, reference.added(base, {1: share * VECTOR}), rtol=0, atol=1e-5)


def bringing(file, place, tmp_path):
    """An experiment on a saved tiny model, whose first persona brings its direction."""
    save_tiny(place / "model")
    experiment = small_experiment()
    first, *rest = experiment.personas
    model = experiment.model.model_copy(update={"path": "model", "blocks": LAYERS})
    personas = (first.model_copy(update={"direction": file}), *rest)
    return experiment.model_copy(update={"model": model, "personas": personas})


def test_the_key_of_a_directions_unit_holds_the_files_hash(place, tmp_path):
    experiment = bringing("evil_response_avg_diff.pt", place, tmp_path)
    where = Place(directory=place)
    unit = directions_unit(experiment.layers.primary)
    before = experiment_graph(experiment, where)
    check_runnable(experiment, where, before, tmp_path / "run")
    torch.save(torch.ones(LAYERS + 1, HIDDEN), place / "evil_response_avg_diff.pt")  # noqa: TID251 - as above
    assert experiment_graph(experiment, where).keys[unit] != before.keys[unit]
    (place / "evil_response_avg_diff.pt").unlink()
    with pytest.raises(ExperimentError, match="no direction file"):
        experiment_graph(experiment, where)


def test_a_direction_that_does_not_fit_is_refused_before_anything_runs(place, tmp_path):
    experiment = bringing("wrong.pt", place, tmp_path)
    where = Place(directory=place)
    for table, error in [
        (torch.ones(LAYERS + 1, HIDDEN + 1), SteeringError),
        (torch.ones(LAYERS + 3, HIDDEN), SteeringError),
        ({"no": "tensor"}, ModelError),
    ]:
        torch.save(table, place / "wrong.pt")  # noqa: TID251 - as above
        graph = experiment_graph(experiment, where)
        with pytest.raises(error):
            check_runnable(experiment, where, graph, tmp_path / "run")


def test_an_experiment_without_brought_directions_is_written_as_before():
    experiment = small_experiment()
    assert "direction" not in experiment.personas[0].model_dump(mode="json")
