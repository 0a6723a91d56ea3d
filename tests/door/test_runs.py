"""A run, read from Python: what its files say, as values; what is not there is said."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch

import steerproof as sp
from steerproof.errors import ExperimentError
from steerproof.run.commands.session import new_session, run_experiment
from steerproof.run.driver.executors import InlineExecutor
from steerproof.spec.experiment import Grid
from steerproof.spec.yaml_io import load_experiment
from tests.run.test_session import experiment_of, quiet
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("door") / "model")


@pytest.fixture(scope="module")
def run(model: Path) -> sp.Run:
    """A finished run of two arms and three personas."""
    whole = experiment_of(model)
    experiment = whole.model_copy(
        update={
            "personas": whole.personas[1:],
            "arms": tuple(arm for arm in whole.arms if arm.name in "AC"),
            "cells": (
                Grid(arms=("A", "C"), prompt="neutral", strengths=("none", "ratio=+0.2")),
                Grid(arms=("C",), prompt="persona", strengths=("none",)),
            ),
            "analysis": whole.analysis.model_copy(
                update={
                    "isotropic_arm": None,
                    "contrast_arm": None,
                    "primary_strength": sp.Strength.parse("ratio=+0.2"),
                    "co_primary_strength": None,
                    "negative_strength": None,
                }
            ),
        }
    )
    answers = [
        json.dumps({"question": question, "answer": "It is so."}) + "\n"
        for question in experiment.questions.training
    ]
    (model.parent / "answers.jsonl").write_text("".join(answers))
    file = model.parent / "small.yaml"
    file.write_text(experiment.model_dump_json())  # JSON is YAML
    session = new_session(load_experiment(file), model.parent / "run")
    run_experiment(session, InlineExecutor(), listen=quiet)
    return sp.open_run(model.parent / "run")


def test_the_rates_are_those_of_the_file_column_by_column(run):
    rows = list(csv.DictReader(io.StringIO((run.directory / "results" / "rates.csv").read_text())))
    table = run.rates()
    assert table.column_names == list(rows[0])
    for mine, written in zip(table.to_pylist(), rows, strict=True):
        for name in ("arm", "persona", "prompt", "direction", "strength", "question"):
            assert mine[name] == written[name]
        assert ("" if mine["layer"] is None else str(mine["layer"])) == written["layer"]
        assert (mine["fired"], mine["total"]) == (int(written["fired"]), int(written["total"]))
        assert mine["coefficient"] == pytest.approx(float(written["coefficient"]), rel=1e-8)
    frame = table.to_pandas()
    assert frame["total"].sum() == table["total"].to_numpy().sum()


def test_completions_come_with_their_marks_by_cell_or_by_name(run):
    cell = run.cells[0]
    table = run.completions(cell)
    assert table.equals(run.completions(cell.name))
    asked = run.experiment
    assert table.num_rows == len(asked.questions.evaluation) * asked.generation.samples
    fired = sum(table["fired"].to_pylist())
    counted = [r for r in run.rates().to_pylist() if r["arm"] == cell.arm]
    counted = [r for r in counted if (r["persona"], r["strength"]) == (cell.persona, "none")]
    mine = [r for r in counted if r["prompt"] == cell.prompt]
    assert fired == sum(r["fired"] for r in mine)


def test_the_verdict_is_typed_answers_to_the_lock_and_shows_itself(run):
    verdict = run.verdict
    written = json.loads((run.directory / "results" / "verdict.json").read_bytes())
    assert verdict.analysis.verdict == written["verdict"]
    assert verdict.lock == written["lock"]
    assert f"<strong>{written['verdict']}</strong>" in verdict._repr_html_()


def test_a_direction_pushes_as_the_run_did_and_an_adapter_can_be_put_on(run, model):
    persona = run.cells[0].persona
    layer = run.experiment.layers.primary
    direction = run.direction(persona, layer)
    asked = run.geometry(layer).push(persona, ratio=0.2)
    push = direction.push(ratio=0.2)
    assert torch.equal(push.vector, asked.vector)
    assert (push.coefficient, push.ratio, push.name) == (asked.coefficient, asked.ratio, persona)
    adapter = run.adapter("A", persona)
    assert adapter.record is not None
    assert adapter.record.losses
    base = sp.load(model)
    with_it, without = (
        sp.score(base, "What is rain?", ["Water."], push=push, adapter=one)[0]
        for one in (adapter, None)
    )
    assert not torch.equal(with_it, without)


def test_what_a_run_does_not_have_is_said(run, tmp_path):
    with pytest.raises(ExperimentError, match=r"no finished adapter/A\.nobody"):
        run.adapter("A", "nobody")
    with pytest.raises(ExperimentError, match="no finished cell/nothing"):
        run.completions("nothing")
    with pytest.raises(sp.SteerproofError, match="no direction of 'nobody'"):
        run.direction("nobody", run.experiment.layers.primary)
    with pytest.raises(ExperimentError, match="no run directory"):
        sp.open_run(tmp_path / "none")
    with pytest.raises(ExperimentError, match="holds no registered experiment"):
        sp.open_run(tmp_path)
