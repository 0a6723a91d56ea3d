"""The whole experiment on a tiny random model: every stage, resume, edits, registration."""

import json
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import replace

import pytest

from steerproof.errors import ExperimentError, ModelError, RegistrationError, SteerproofError
from steerproof.model.base import load_base
from steerproof.run.artefacts import cell, training
from steerproof.run.commands import report_inputs as reading
from steerproof.run.commands.concluding import gathered_in, rebuild_report
from steerproof.run.commands.evidence import calibrations
from steerproof.run.commands.inputs import require_inputs
from steerproof.run.commands.session import (
    EVERY_STAGE,
    graph_of,
    new_session,
    registered_graph,
    run_experiment,
)
from steerproof.run.commands.session import session_in as session_of
from steerproof.run.driver.executors import InlineExecutor
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import ANALYSIS, SCORE, adapter_unit, directions_unit
from steerproof.run.graph.survey import survey
from steerproof.run.store.manifest import open_unit
from steerproof.run.store.store import unit_directory
from steerproof.run.trial import geometries
from steerproof.spec.experiment import Arm, Model
from steerproof.spec.grid import AdapterId, adapters, cells
from steerproof.spec.yaml_io import Loaded
from tests.experiments import small_experiment
from tests.tiny import LAYERS, save_tiny


def poet(arm):
    return adapter_unit(AdapterId(arm=arm, persona="poet"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def quiet(event, progress):
    """Listen to nothing."""


def experiment_of(model, **changes):
    fields = {
        "model": {"path": str(model), "blocks": LAYERS},
        "dataset": {
            "positives": 4, "negatives_per_bystander": 2, "answers": "answers.jsonl",
        },
        "training": {
            "rank": 2, "alpha": 4.0, "learning_rate": 1e-2, "epochs": 1, "rows_per_step": 4,
            "max_length": 256,
        },
        "generation": {"samples": 1, "max_new_tokens": 3},
        "analysis": {"iterations": 200, "permutations": 99},
    }  # fmt: skip
    base = small_experiment().model_dump(mode="json") | fields | changes
    return type(small_experiment()).model_validate_json(json.dumps(base))


def session_in(directory, experiment):
    answers = directory / "answers.jsonl"
    questions = experiment.questions.training
    answers.write_text(
        "".join(json.dumps({"question": q, "answer": "It is so."}) + "\n" for q in questions)
    )
    loaded = Loaded(
        experiment=experiment,
        text="# as written\n",
        path=directory / "small.yaml",
        directory=directory,
    )
    return new_session(loaded, directory / "run")


def go(session, hands=None, **more):
    return run_experiment(session, hands or InlineExecutor(), listen=quiet, **more)


@pytest.fixture(scope="module")
def pristine(model, tmp_path_factory):
    """A finished run that nobody changes."""
    session = session_in(tmp_path_factory.mktemp("pristine"), experiment_of(model))
    return session, *go(session)


def copied(pristine, directory):
    """The same run in another place."""
    session = pristine[0]
    shutil.copytree(session.run, directory / "run")
    return session_in(directory, session.experiment)


@pytest.fixture(scope="module")
def finished(pristine, tmp_path_factory):
    _, summary, verdict = pristine
    return copied(pristine, tmp_path_factory.mktemp("finished")), summary, verdict


def test_every_adapter_and_cell_is_a_unit_and_ends_in_a_verdict(finished):
    session, summary, verdict = finished
    experiment = session.experiment
    expected = 2 + 1 + 5 + len(adapters(experiment)) + len(cells(experiment)) + 2
    assert summary.progress.total == summary.progress.done == expected
    assert verdict.analysis.verdict in ("SUPPORTED", "REFUTED", "INCONCLUSIVE")
    assert set(verdict.analysis.arms) == {"A", "B", "C", "A-iso", "A-L10"}
    results = session.run / "results"
    for name in ("rates.csv", "verdict.json", "estimates.json", "report.html", "calibration.json"):
        assert (results / name).stat().st_size > 0
    assert list((results / "figures").glob("*.svg"))


def test_each_trained_adapter_got_the_push_that_was_asked_for(finished):
    session, _, _ = finished
    graph = graph_of(session)
    directory = unit_directory(session.run, poet("A"), graph.keys[poet("A")])
    record = training.from_unit(open_unit(directory))
    assert len(record.pushes) == 3  # the source and two bystanders
    for push in record.pushes:
        assert push.asked_ratio == pytest.approx(0.2)
        assert push.achieved_norm == pytest.approx(push.asked_norm, rel=0.05)
    none = unit_directory(session.run, poet("C"), graph.keys[poet("C")])
    assert training.from_unit(open_unit(none)).pushes == ()


def test_each_steered_cell_has_a_canary_that_its_push_moved(finished):
    session, _, _ = finished
    graph = graph_of(session)
    name = UnitId("cell", "A.poet.neutral.centroid.L1.c=+2")
    record = cell.record_of(open_unit(unit_directory(session.run, name, graph.keys[name])))
    assert record.coefficient == 2.0
    assert record.canary["change"] > record.canary["error"]
    assert record.achieved_norm == pytest.approx(record.asked_norm, rel=0.05)


def test_running_again_does_nothing_again(finished):
    session, first, verdict = finished
    summary, again = go(session)
    assert summary.progress.done == 0
    assert summary.progress.reused == first.progress.total
    assert again == verdict


def changed_units(session, experiment):
    edited = new_session(
        Loaded(
            experiment=experiment,
            text=session.loaded.text,
            path=session.loaded.path,
            directory=session.loaded.directory,
        ),
        session.run,
    )
    old, new = graph_of(session), graph_of(edited)
    return {unit for unit in new.keys if new.keys[unit] != old.keys.get(unit)}


def test_editing_one_arm_redoes_that_arm_only(finished):
    session, _, _ = finished
    arms = [
        arm if arm.name != "B" else Arm(name="B", prompt="persona", direction="centroid", ratio=0.3)
        for arm in session.experiment.arms
    ]
    changed = changed_units(session, session.experiment.model_copy(update={"arms": tuple(arms)}))
    kinds = {str(unit).split(".")[0] for unit in changed}
    assert kinds == {"adapter/B", "cell/B", "score/all", "analysis/all"}


def test_editing_a_title_or_the_contrast_layer_leaves_the_rest_alone(finished):
    session, _, _ = finished
    experiment = session.experiment
    assert not changed_units(session, experiment.model_copy(update={"title": "Another title"}))
    layers = experiment.layers.model_copy(update={"contrast": 2})
    changed = changed_units(session, experiment.model_copy(update={"layers": layers}))
    assert not any(
        str(unit).startswith(("adapter/A.", "adapter/C.", "cell/C.")) for unit in changed
    )
    assert directions_unit(2) in changed


def test_an_edit_that_matters_is_refused_until_it_is_declared(finished):
    session, _, _ = finished
    analysis = session.experiment.analysis.model_copy(update={"iterations": 300})
    edited = session_in(
        session.loaded.directory, session.experiment.model_copy(update={"analysis": analysis})
    )
    with pytest.raises(RegistrationError, match=r"analysis.iterations"):
        go(edited)
    summary, _ = go(edited, deviate="more iterations")
    assert summary.progress.done == 1
    page = (session.run / "results" / "report.html").read_text()
    assert "more iterations" in page
    assert "By the locked rule, the verdict is" in page, "the table is as it was locked"
    assert "No result answers to the locked experiment" not in page


def test_a_deviation_that_changed_what_was_measured_leaves_no_result_as_registered(
    pristine, tmp_path
):
    session = copied(pristine, tmp_path)
    fewer = session.experiment.questions.model_copy(
        update={"evaluation": session.experiment.questions.evaluation[:1]}
    )
    edited = session_in(tmp_path, session.experiment.model_copy(update={"questions": fewer}))
    go(edited, deviate="fewer questions")
    page = (session.run / "results" / "report.html").read_text()
    assert "No result answers to the locked experiment" in page
    assert "By the locked rule" not in page


def test_a_run_with_relative_paths_is_reported_on_and_explained_wherever_it_is_moved(
    model, tmp_path, monkeypatch
):
    home, moved = tmp_path / "home", tmp_path / "with 'a quote' and spaces"
    shutil.copytree(model, home / "model")
    experiment = experiment_of(model).model_copy(
        update={"model": Model(path="model", blocks=LAYERS)}
    )
    session = session_in(home, experiment)
    text = json.dumps(experiment.model_dump(mode="json"))
    session = replace(session, loaded=replace(session.loaded, text=text))
    _, verdict = go(session)
    keys = graph_of(session).keys
    session.run.rename(moved)
    monkeypatch.chdir(tmp_path)
    assert graph_of(session_of(moved)).keys == keys
    assert shlex.split(session_of(moved).command)[-1] == str(moved)

    shutil.rmtree(home / "model")
    with pytest.raises(ModelError):
        graph_of(session_of(moved))
    assert registered_graph(session_of(moved)).keys == keys
    shutil.rmtree(home)
    (moved / "results" / "report.html").unlink()
    assert rebuild_report(session_of(moved)) == verdict
    assert (moved / "results" / "report.html").stat().st_size > 0
    assert registered_graph(session_of(moved)).keys == keys
    with pytest.raises(ExperimentError, match=r"(?s)model\.path: model.*dataset\.answers.*--inp"):
        require_inputs(session_of(moved))
    back = tmp_path / "elsewhere"
    shutil.copytree(model, back / "model")
    session_in(back, experiment)  # writes the answers
    require_inputs(session_of(moved, inputs=back))
    assert graph_of(session_of(moved, inputs=back)).keys == keys


def test_a_prompt_that_does_not_fit_is_refused_and_what_was_finished_is_kept(pristine, tmp_path):
    session = copied(pristine, tmp_path)
    before = len(survey(session.run, graph_of(session)).reused)
    long = ("What is salt? " * 40,)
    questions = session.experiment.questions.model_copy(update={"evaluation": long})
    edited = session_in(tmp_path, session.experiment.model_copy(update={"questions": questions}))
    with pytest.raises(ModelError, match="never cut"):
        go(edited, deviate="longer questions")
    assert len(survey(session.run, graph_of(session)).reused) == before


def test_a_model_directory_without_weights_is_one_clear_error(tmp_path, model):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    session = session_in(tmp_path, experiment_of(empty))
    with pytest.raises(SteerproofError, match=r"safetensors|tokenizer"):
        go(session)
    with pytest.raises(ModelError, match="no such model directory"):
        graph_of(session_in(tmp_path, experiment_of(tmp_path / "nowhere")))


def test_a_report_is_rebuilt_from_units_that_an_earlier_version_made(
    pristine, tmp_path, monkeypatch
):
    session, verdict = copied(pristine, tmp_path), pristine[2]
    report = session.run / "results" / "report.html"
    before = report.read_bytes()
    report.unlink()
    monkeypatch.setattr(
        "steerproof.run.graph.environment._code_version", lambda kind: f"another {kind}"
    )
    assert ANALYSIS not in survey(session.run, graph_of(session)).reused
    assert rebuild_report(session) == verdict
    assert report.read_bytes() == before


def test_a_plan_measures_the_geometry_that_the_directions_units_write(model, pristine):
    session = pristine[0]
    experiment = session.experiment
    written = calibrations(experiment, survey(session.run, graph_of(session)).reused)
    planned = {layer.layer: layer for layer in geometries(experiment, load_base(model))}
    assert set(planned) == {0, 1}
    assert planned == written


def test_groundwork_is_taken_only_if_it_is_of_the_same_units(pristine, monkeypatch) -> None:
    session = pristine[0]
    gathered = gathered_in(session)
    fresh = reading.report_inputs(gathered)
    before = {unit: one for unit, one in gathered.finished.items() if unit != ANALYSIS}
    directory = session.place.directory.absolute()
    laid = reading.groundwork(gathered.experiment, directory, before)
    monkeypatch.setattr(reading, "groundwork", None)  # laying it anew would fail
    assert reading.report_inputs(gathered, laid) == fresh
    other = {**laid.made_from, SCORE: "another content"}
    for stale in (replace(laid, made_from=other), replace(laid, directory=session.run)):
        with pytest.raises(TypeError):
            reading.report_inputs(gathered, stale)


class Hands(InlineExecutor):
    """Notes when it is asked to make ready, and when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def begin(self, modules: Iterable[str]) -> None:
        """Note it."""
        self.told += modules

    def close(self) -> None:
        """Note it."""
        super().close()
        self.told.append("close")


def test_workers_make_ready_with_the_command_where_nothing_was_ever_run(pristine, tmp_path) -> None:
    hands = Hands()
    with pytest.raises(ModelError):  # while it is planned
        go(session_in(tmp_path, experiment_of(tmp_path / "nowhere")), hands)
    assert hands.told == [EVERY_STAGE, "close"]
    hands = Hands()
    go(copied(pristine, tmp_path / "finished"), hands)
    assert set(hands.told) == {"close"}
