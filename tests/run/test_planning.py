"""Estimates before the run: a timed trial, and what the machine must have."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from steerproof.errors import ModelError
from steerproof.model.base import load_base
from steerproof.run.commands import planning
from steerproof.run.commands.basemodel import describe_model, needs_of
from steerproof.run.commands.planning import plan_run
from steerproof.run.graph.environment import Place
from steerproof.run.graph.units import experiment_graph
from steerproof.run.trial import ADAPTERS, SAMPLES, Timed, _grown, geometries, trial
from steerproof.spec.experiment import Experiment, Model
from steerproof.spec.yaml_io import Loaded, load_experiment
from tests.experiments import small_experiment
from tests.tiny import LAYERS, save_tiny


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    directory = save_tiny(tmp_path_factory.mktemp("model"))
    small = small_experiment()
    return small.model_copy(
        update={
            "model": Model(path=str(directory), blocks=LAYERS),
            "generation": small.generation.model_copy(update={"max_new_tokens": 8}),
        }
    )


def test_a_trial_times_both_kinds_of_work_with_the_experiments_own_lengths(
    experiment: Experiment,
) -> None:
    found = trial(experiment, load_base(experiment.model.path))
    assert 0.0 < found.seconds < 60.0
    assert found.training > 0.0
    assert found.generation > 0.0
    # A prompt of the tiny tokenizer has a token per byte; an answer at most 8.
    assert 30 < found.row_tokens.low <= found.row_tokens.high < 256
    assert 1.0 <= found.completion_tokens.low <= found.completion_tokens.high <= 8.0
    rows = ADAPTERS * len(experiment.questions.evaluation) * SAMPLES
    assert found.generation < rows * 8 * 1000, "tokens per second, not per trial"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trial_keeps_to_its_budget_in_every_number_type(
    experiment: Experiment, dtype: str
) -> None:
    base = load_base(experiment.model.path, dtype=dtype)
    said: list[str] = []
    found = trial(experiment, base, seconds=0.01, say=said.append)
    assert found.training > 0.0
    assert found.generation > 0.0
    measured = geometries(experiment, base, seconds=0.0, say=said.append)
    assert {layer.layer for layer in measured} == set(experiment.steered_layers)
    assert said[0] == "trying out generation: 4 completions of at most 8 tokens"
    assert said[1].startswith("trying out training: ")
    assert said[2].startswith("measuring directions from 2 of ")
    assert len(said) == 3, "there was time for two questions only"


def test_work_grows_until_its_speed_is_stable() -> None:
    speeds = {2: 10.0, 4: 20.0, 8: 21.0, 16: 21.0}
    done: list[int] = []

    def work(count: int) -> Timed:
        done.append(count)
        return Timed(tokens=count, seconds=count / speeds[count])

    assert _grown(work, 2, 16, 100.0).speed == pytest.approx(21.0)
    assert done == [2, 4, 8]
    done.clear()
    assert _grown(work, 2, 16, 0.1).speed == pytest.approx(10.0)
    assert done == [2]


def test_long_completions_are_known_from_below_only(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerproof.run.trial.MOST_NEW_TOKENS", 2)
    found = trial(experiment, load_base(experiment.model.path))
    assert found.completion_tokens.low <= 2.0
    assert found.completion_tokens.high == 8.0, "the limit that the experiment asks for"


def test_a_plan_of_a_fresh_directory_is_tried_out_and_says_so(
    experiment: Experiment, tmp_path: Path
) -> None:
    place = Place(directory=tmp_path)
    graph = experiment_graph(experiment, place)
    untried = plan_run(experiment, graph, tmp_path / "run", place)
    assert untried.plan.hours is None
    assert any("size of each push" in text for text in untried.not_yet_known)
    tried = plan_run(experiment, graph, tmp_path / "run", place, trial=str)
    assert tried.plan.hours is not None
    assert 0.0 < tried.plan.hours.low <= tried.plan.hours.high < 24.0
    assert "a trial of" in tried.plan.source
    assert not any("size of each push" in text for text in tried.not_yet_known)
    assert not (tmp_path / "run").exists(), "a plan writes nothing"


def test_a_model_too_large_for_this_machine_is_not_tried(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "weight_bytes", lambda _: 1 << 60)
    assert planning.try_out(experiment, Place(directory=tmp_path)) is None


# --- doctor ---------------------------------------------------------------------------------------


def test_what_the_plan_asks_of_the_machine_goes_to_the_doctor(tmp_path: Path) -> None:
    loaded = load_experiment("zlt-qwen2.5-7b")
    on_a_gpu = needs_of(loaded, "cuda")
    assert on_a_gpu.gpus == 1
    assert on_a_gpu.memory == 0, "it is the GPU's memory that counts"
    own = load_experiment("zlt")
    assert needs_of(own, "cpu").gpus == 0
    assert needs_of(own, "cpu").disk > 0
    missing = Model(path=str(tmp_path / "nowhere"), blocks=2)
    gone = replace(own, experiment=own.experiment.model_copy(update={"model": missing}))
    assert needs_of(gone, "cpu").disk >= 0, "doctor's own look at the model says what is wrong"


def test_the_model_is_described_by_what_was_tried(experiment: Experiment, tmp_path: Path) -> None:
    loaded = Loaded(experiment=experiment, text="", path=tmp_path / "x.yaml", directory=tmp_path)
    told = describe_model(loaded, "cpu")
    assert "Qwen2ForCausalLM, 4 blocks" in told
    assert "context 256" in told
    assert "every prompt fits" in told
    gone = experiment.model_copy(update={"model": Model(path=str(tmp_path), blocks=2)})
    with pytest.raises(ModelError):
        describe_model(replace(loaded, experiment=gone), "cpu")


def test_doctor_on_the_command_line_exits_with_3_when_unfit_and_never_prints_a_token(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "steerproof", "doctor", "zlt", "--json"),
            *("--device", "cuda", "--dir", str(tmp_path / "run")),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PATH": str(tmp_path),  # without the driver's tool there is no GPU, wherever this runs
            "HF_TOKEN": "hf_secret_words",
        },
    )
    assert ran.returncode == 3, ran.stderr
    assert "unfit for zlt" in ran.stderr
    found = {check["name"]: check for check in json.loads(ran.stdout)}
    assert found["gpus"]["level"] == "fail"
    assert "CUDA_VISIBLE_DEVICES" in found["gpus"]["remedy"]
    assert found["kernel lock"]["value"] == "a second process is refused"
    assert found["HF_TOKEN"]["value"] == "set"
    assert "hf_secret_words" not in ran.stdout + ran.stderr
