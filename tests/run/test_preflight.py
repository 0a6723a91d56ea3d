"""What cannot work is refused before the first unit, with nothing written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from steerproof.errors import ModelError
from steerproof.model.files import find_directory
from steerproof.run.commands.preflight import check_runnable
from steerproof.run.graph.environment import Place
from steerproof.run.graph.units import experiment_graph
from steerproof.spec.experiment import Experiment
from steerproof.spec.yaml_io import load_experiment


@pytest.fixture
def experiment() -> Experiment:
    return load_experiment("positive-control").experiment


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    place = tmp_path / "checkpoint"
    shutil.copytree(find_directory("organism", None), place)
    return place


def check(experiment: Experiment, place: Path, run: Path) -> None:
    model = experiment.model.model_copy(update={"path": place.name})
    asked = experiment.model_copy(update={"model": model})
    where = Place(directory=place.parent)
    check_runnable(asked, where, experiment_graph(asked, where), run)


def test_a_checkpoint_that_works_is_let_through(experiment, checkpoint, tmp_path):
    check(experiment, checkpoint, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_without_weights_is_refused(experiment, checkpoint, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights in .* found .*build\.json, config\.json"):
        check(experiment, checkpoint, tmp_path / "run")


def test_a_tokenizer_without_chat_template_is_refused(experiment, checkpoint, tmp_path):
    settings = checkpoint / "tokenizer_config.json"
    kept = {k: v for k, v in json.loads(settings.read_text()).items() if k != "chat_template"}
    settings.write_text(json.dumps(kept))
    for template in checkpoint.glob("*.jinja"):
        template.unlink()
    with pytest.raises(ModelError, match="no chat template"):
        check(experiment, checkpoint, tmp_path / "run")


def test_another_number_of_blocks_is_refused(experiment, checkpoint, tmp_path):
    asked = experiment.model_copy(
        update={"model": experiment.model.model_copy(update={"blocks": 12})}
    )
    with pytest.raises(ModelError, match="says 12, but the checkpoint has 6 blocks"):
        check(asked, checkpoint, tmp_path / "run")


@pytest.mark.parametrize("where", ["neutral", "persona", "training", "evaluation"])
def test_a_prompt_longer_than_the_context_is_refused(experiment, checkpoint, tmp_path, where):
    long = "clear and plain words " * 150
    questions = experiment.questions
    change = {
        "neutral": {"neutral_prompt": long},
        "persona": {
            "personas": (
                experiment.personas[0].model_copy(update={"prompt": long}),
                *experiment.personas[1:],
            )
        },
        "training": {
            "questions": questions.model_copy(update={"training": (*questions.training, long)})
        },
        "evaluation": {
            "questions": questions.model_copy(update={"evaluation": (*questions.evaluation, long)})
        },
    }
    asked = experiment.model_copy(update=change[where])
    with pytest.raises(ModelError, match=r"context is 512; .* a prompt is never cut"):
        check(asked, checkpoint, tmp_path / "run")


def test_room_for_the_answer_is_asked_for(experiment, checkpoint, tmp_path):
    """A prompt that fits alone, but not with the tokens that are to follow."""
    generation = experiment.generation.model_copy(update={"max_new_tokens": 505})
    asked = experiment.model_copy(update={"generation": generation})
    with pytest.raises(ModelError, match=r"max_new_tokens is 505, .* prompt of 12 .* room for 500"):
        check(asked, checkpoint, tmp_path / "run")


def test_a_finished_run_needs_no_model(experiment, checkpoint, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    graph = experiment_graph(experiment, Place(directory=Path()))
    bare = {
        unit: replace(node, environment=replace(node.environment, model={}))
        for unit, node in graph.units.items()
    }
    check_runnable(
        experiment, Place(directory=Path()), replace(graph, units=bare), tmp_path / "run"
    )
