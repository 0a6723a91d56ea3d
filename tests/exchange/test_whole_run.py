"""A run that takes its directions and adapters from elsewhere, from first unit to report."""

import base64
import json

import numpy as np
import pandas
import pytest
import torch
from typer.testing import CliRunner

import steerproof as sp
from steerproof.cli import app
from steerproof.model.chat import load_tokenizer
from steerproof.run.artefacts import directions as directions_file
from steerproof.run.graph.names import SCORE, directions_unit
from steerproof.run.graph.survey import recorded
from steerproof.spec.experiment import Grid
from tests.run.test_session import experiment_of
from tests.tiny import HIDDEN, LAYERS, save_tiny

VECTOR = 3 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(4))


def command(*arguments):
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def experiment(tmp_path):
    """Two arms and three personas on a tiny model."""
    whole = experiment_of(save_tiny(tmp_path / "model"))
    answers = [
        json.dumps({"question": question, "answer": "It is so."}) + "\n"
        for question in whole.questions.training
    ]
    (tmp_path / "answers.jsonl").write_text("".join(answers))
    analysis = whole.analysis.model_copy(update={"isotropic_arm": None, "contrast_arm": None})
    return whole.model_copy(
        update={
            "personas": whole.personas[1:],
            "arms": tuple(arm for arm in whole.arms if arm.name in "AC"),
            "cells": (
                Grid(arms=("A", "C"), prompt="neutral", strengths=("none", "c=+2", "ratio=+0.2")),
                Grid(arms=("C",), prompt="persona", strengths=("none",)),
            ),
            "analysis": analysis.model_copy(update={"negative_strength": None}),
        }
    )


def run(experiment, place, name):
    file, out = place / f"{name}.yaml", place / name
    file.write_text(experiment.model_dump_json())  # JSON is YAML
    command("run", file, "--dir", out, "--device", "cpu", "--executor", "inline")
    return out


def bridge(out):
    lines = (out / "results" / "rates.csv").read_text().splitlines()
    return [line for line in lines if line.startswith("C,") and ",persona," in line]


def test_brought_directions_and_exported_adapters_carry_a_run(experiment, tmp_path):
    first = run(experiment, tmp_path, "first")
    command("adapters", "export", first, "--arm", "C", "--out", tmp_path / "loras")
    table = torch.stack([VECTOR] * (LAYERS + 1))
    torch.save(table, tmp_path / "evil_response_avg_diff.pt")  # noqa: TID251 - as the field does
    brings, *others = experiment.personas
    brings = brings.model_copy(update={"direction": "evil_response_avg_diff.pt"})
    arms = tuple(
        arm.model_copy(update={"adapters": "loras/C/{persona}"}) if arm.name == "C" else arm
        for arm in experiment.arms
    )
    second = run(
        experiment.model_copy(update={"personas": (brings, *others), "arms": arms}),
        tmp_path,
        "second",
    )
    layer = experiment.layers.primary
    geometry = directions_file.from_unit(recorded(second)[directions_unit(layer)])
    assert torch.equal(geometry.vector(brings.name), VECTOR)
    assert geometry.calibration.personas[brings.name].split_half is None
    assert len(bridge(first)) == len(experiment.personas) * len(experiment.questions.evaluation)
    assert bridge(second) == bridge(first)  # the same adapters, prompts and seeds
    report = (second / "results" / "report.html").read_text()
    assert "direction from evil_response_avg_diff.pt, row" in report
    assert "loaded: loras/C/{persona}" in report
    figures_and_tables_can_be_taken_away(second, tmp_path)
    cells_can_be_asked_of_another_engine(second, tmp_path, brings.name)
    told = json.loads(command("plan", tmp_path / "second.yaml", "--json", "--no-trial"))
    assert "adapters_of_unknown_prompts" not in {one["code"] for one in told["objections"]}


def figures_and_tables_can_be_taken_away(run, place):
    """What a paper and a notebook want of a run."""
    command("figures", run, "--format", "svg", "--width", "86mm", "--out", place / "paper")
    names = {path.name for path in (place / "paper").iterdir()}
    assert {"main-numbers.tex", "strengths.svg", "strengths.csv", "losses.svg"} <= names
    svg = (place / "paper" / "strengths.svg").read_text()
    assert f'width="{86 / 25.4 * 72:.2f}'[:11] in svg
    rates = pandas.read_csv(run / "results" / "rates.csv")
    held = sp.open_run(run).rates().to_pandas()
    assert list(rates["fired"]) == list(held["fired"])
    assert set(rates["strength"]) == {"none", "c=+2", "ratio=+0.2"}  # text, no formula, no NaN
    assert rates["coefficient"].dtype == float
    marks = pandas.read_parquet(recorded(run)[SCORE].path("scores.parquet"))
    assert marks["fired"].sum() == rates["fired"].sum()


def cells_can_be_asked_of_another_engine(run, place, persona):
    """Adapter, direction, prompt and draw of each completion, as files."""
    out = place / "requests"
    command("requests", run, "--out", out)
    lines = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
    rates = sp.open_run(run).rates().to_pandas()
    assert len(lines) == rates["total"].sum()
    steered = [line for line in lines if line["apply_steering_vectors"]]
    assert len(steered) == rates.loc[rates["strength"] != "none", "total"].sum()
    line = next(one for one in steered if f"A.{persona}.neutral" in one["cell"])
    told = json.loads((out / line["apply_steering_vectors"][0]).read_bytes())
    added = np.frombuffer(base64.b64decode(told["activations"]["data"]), "<f4") * told["scale"]
    assert "c=+2" in line["cell"]
    assert added == pytest.approx(2 * VECTOR.numpy())
    assert {path.name for path in (out / line["lora_request"]["lora_path"]).iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    text = load_tokenizer(place / "model").decode(line["prompt_token_ids"])
    experiment = sp.open_run(run).experiment
    assert experiment.neutral_prompt in text
    assert experiment.questions.evaluation[line["question"]] in text
