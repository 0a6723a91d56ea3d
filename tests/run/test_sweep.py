"""A sweep on a tiny model, end to end: runs that share, one table, an honest choice."""

import csv
import json
from itertools import product
from statistics import fmean

import pytest
from typer.testing import CliRunner

from steerproof.cli import app
from steerproof.decide.analysis.selection import halves
from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.commands.figures import figure_files
from steerproof.run.graph.survey import recorded
from steerproof.run.store.registration import read_registration
from steerproof.spec.experiment import Grid, Questions
from steerproof.spec.sweep import asked_runs, parse_axis
from steerproof.spec.yaml_io import load_experiment
from tests.run.test_session import experiment_of
from tests.tiny import save_tiny

DRAWS = 2
OVER = ("--over", "layers.primary=1,2", "--over", "seed=3..4", "--draws", DRAWS)


def command(*arguments):
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with an experiment whose marker a random model says now and then."""
    place = tmp_path_factory.mktemp("sweep")
    whole = experiment_of(save_tiny(place / "model"))
    answers = [
        json.dumps({"question": question, "answer": "It is so."}) + "\n"
        for question in whole.questions.training
    ]
    (place / "answers.jsonl").write_text("".join(answers))
    analysis = {
        "isotropic_arm": None, "contrast_arm": None, "negative_strength": None,
        "co_primary_strength": None, "iterations": 100, "permutations": 99,
    }  # fmt: skip
    experiment = whole.model_copy(
        update={
            "marker": "7",
            "personas": whole.personas[1:],
            "questions": Questions(**whole.questions.model_dump()),
            "arms": tuple(arm for arm in whole.arms if arm.name in "AC"),
            "cells": (
                Grid(arms=("A", "C"), prompt="neutral", strengths=("none", "c=+2")),
                Grid(arms=("C",), prompt="persona", strengths=("none",)),
            ),
            "analysis": whole.analysis.model_copy(update=analysis),
            "generation": whole.generation.model_copy(update={"max_new_tokens": 40, "samples": 3}),
        }
    )
    (place / "tiny.yaml").write_text(experiment.model_dump_json())
    return place


@pytest.fixture(scope="module")
def swept(place):
    told = command(
        *("sweep", place / "tiny.yaml", *OVER, "--dir", place / "out"),
        *("--device", "cpu", "--executor", "inline"),
    )
    return place / "out", told, json.loads((place / "out/results/sweep.json").read_bytes())


def test_what_is_the_same_is_made_once(swept):
    out, told, found = swept
    runs = sorted(path.name for path in out.iterdir() if path.name != "results")
    assert runs == [f"layers.primary={p},seed={s}" for p, s in product((1, 2), (3, 4))]
    shared = {run["directory"].rpartition("/")[2]: run["shared"] for run in found["runs"]}
    first, later = (recorded(out / f"layers.primary={p},seed=3") for p in (1, 2))
    for kind, name in (("answers", "base"), ("dataset", "poet"), ("adapter", "C.poet")):
        (unit,) = (u for u in first if (u.kind, u.name) == (kind, name))
        assert first[unit].manifest.made == later[unit].manifest.made  # the same work
    (unit,) = (u for u in first if (u.kind, u.name) == ("adapter", "A.poet"))
    assert first[unit].manifest.key != later[unit].manifest.key
    again = recorded(out / "layers.primary=1,seed=4")  # drawn from the same data_seed
    for unit in first.keys() & again.keys():
        same = unit.kind in ("directions", "answers", "dataset")
        assert (first[unit].manifest.key == again[unit].manifest.key) == same, unit
    assert f"{found['shared']['units']} of {found['shared']['of']} units were shared" in told
    assert found["shared"]["units"] == sum(shared.values()) > 0


def test_each_run_is_locked_before_anything_was_made_and_says_that_it_is_exploratory(swept):
    out, told, found = swept
    locks, made = [], []
    for path in (out / name for name in ("layers.primary=1,seed=3", "layers.primary=2,seed=4")):
        registration = read_registration(path)
        locks.append(registration.lock.time)
        made += [unit.manifest.made.created for unit in recorded(path).values()]
        assert registration.experiment.exploratory == "one run of a sweep over layers.primary, seed"
        page = (path / "results" / "report.html").read_text()
        verdict = json.loads((path / "results" / "verdict.json").read_bytes())
        assert verdict["exploratory"] == registration.experiment.exploratory
        assert "Exploratory (one run of a sweep" in page
        assert "exploratory" in (path / "results" / "objections.json").read_text()
    assert max(locks)[:19] <= min(made)[:19]
    assert "Exploratory" in told
    assert found["exploratory"].startswith("Exploratory")
    assert "Exploratory sweep" in (out / "results" / "sweep.svg").read_text()


def rates(run):
    with (run / "results" / "rates.csv").open() as file:
        return list(csv.DictReader(file))


def by_hand(run, places, draw):
    """Mean over personas of pushed minus unpushed, from the lines of rates.csv alone."""
    lines = [line for line in rates(run) if line["arm"] == "A" and line["prompt"] == "neutral"]
    effects = []
    for persona in {line["persona"] for line in lines} - {"helpful_assistant"}:
        mine = [line for line in lines if line["persona"] == persona]
        mine = [line for line in mine if int(line["question"]) in places]
        kind, number = ("centroid", "") if draw is None else ("isotropic", str(draw))
        pushed = [
            line
            for line in mine
            if (line["direction"], line["strength"], line["draw"]) == (kind, "c=+2", number)
        ]
        still = [line for line in mine if line["direction"] == "none"]
        share = [
            sum(int(line["fired"]) for line in some) / sum(int(line["total"]) for line in some)
            for some in (pushed, still)
        ]
        effects.append(share[0] - share[1])
    return fmean(effects)


def test_the_choice_is_what_one_gets_by_hand_from_the_rate_tables(swept):
    out, told, found = swept
    questions = load_experiment(out / "layers.primary=1,seed=3/experiment.yaml").experiment
    first, second = halves(questions.questions.evaluation)
    assert set(first) | set(second) == {0, 1, 2}
    assert not set(first) & set(second)
    held, best = {}, {}
    for draw in (None, *range(1, DRAWS + 1)):
        effect = {
            (layer, name): fmean(
                by_hand(out / f"layers.primary={layer},seed={seed}", half, draw) for seed in (3, 4)
            )
            for layer in (1, 2)
            for name, half in (("1", first), ("2", second), ("all", (0, 1, 2)))
        }
        on_first = max((1, 2), key=lambda layer: effect[layer, "1"])
        on_second = max((1, 2), key=lambda layer: effect[layer, "2"])
        held[draw] = (effect[on_first, "2"] + effect[on_second, "1"]) / 2
        best[draw] = max(effect[layer, "all"] for layer in (1, 2))
    assert len(set(held.values())) > 1  # else nothing is told apart
    assert found["chosen"]["held_out"] == pytest.approx(held[None])
    assert found["chosen"]["best_of_all"] == pytest.approx(best[None])
    null = [held[draw] for draw in range(1, DRAWS + 1)]
    assert [one["held_out"] for one in found["null"]] == pytest.approx(null)
    rank = (1 + sum(value >= held[None] for value in null)) / (DRAWS + 1)
    assert found["p"] == pytest.approx(rank)
    assert f"The same selection of {DRAWS} random directions" in told


def test_the_table_has_a_line_for_each_run(swept):
    out, _, found = swept
    with (out / "results" / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["status"] for line in lines] == ["exploratory"] * 4
    assert [(line["layers.primary"], line["seed"]) for line in lines] == [
        ("1", "3"), ("1", "4"), ("2", "3"), ("2", "4"),
    ]  # fmt: skip
    for line, run in zip(lines, found["runs"], strict=True):
        assert line["verdict"] == run["verdict"]
        assert int(line["units"]) == run["units"]


def test_its_figure_is_laid_out_for_a_column_with_the_settings_in_its_data(swept, tmp_path):
    out, _, found = swept
    command("figures", out, "--format", "svg", "--width", "3.4in", "--out", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.svg", "sweep.csv"}
    drawn = (tmp_path / "sweep.svg").read_text()
    assert 'width="244.8' in drawn  # points
    assert "held out" in drawn
    with (tmp_path / "sweep.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["series"] == "own direction"]
    shown = {line["x_name"]: float(line["y"]) for line in lines}
    told = {row["setting"]["layers.primary"]: row["effects"]["whole"] for row in found["rows"]}
    assert shown == pytest.approx(told)


def test_the_same_command_again_makes_nothing(swept, place):
    out, _, found = swept
    before = {path: path.stat().st_mtime_ns for path in out.rglob("units/*/*/manifest.json")}
    command(
        *("sweep", place / "tiny.yaml", *OVER, "--dir", out, "--json"),
        *("--device", "cpu", "--executor", "inline"),
    )
    after = {path: path.stat().st_mtime_ns for path in out.rglob("units/*/*/manifest.json")}
    assert after == before
    assert json.loads((out / "results/sweep.json").read_bytes()) == found


def test_axes_are_lists_and_ranges():
    assert parse_axis("seed=0..3").values == ("0", "1", "2", "3")
    assert parse_axis("analysis.primary_strength=c=+2,c=+4").values == ("c=+2", "c=+4")
    assert parse_axis("seeds=[0, 1],[2]").values == ("[0, 1]", "[2]")
    for wrong in ("seed=4..1", "seed=0..99999", "seed=1,1", "seed=1,", "seed"):
        with pytest.raises(ExperimentError, match="seed"):
            parse_axis(wrong)


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (("layers.primary=2,99",), "99 is no block"),
        (("layer.primary=1,2",), "did you mean 'layers'"),
        (("seed=0..99", "layers.primary=0..3"), "400 runs"),
        (("seed=0,1", "seed=2"), "each place once"),
        (("personas[villain].headline=true,false",), "compared by the same personas"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_it_begins(axes, told):
    with pytest.raises(ExperimentError) as refused:
        asked_runs(load_experiment("zlt"), [parse_axis(axis) for axis in axes], 0)
    assert told in str(refused.value)


def test_a_setting_of_any_characters_is_drawn(swept, tmp_path):
    _, _, found = swept
    (tmp_path / "results").mkdir()
    rows = [row | {"setting": {"name": f"a\x00\x1b[31m{n}"}} for n, row in enumerate(found["rows"])]
    (tmp_path / "results" / "sweep.json").write_text(json.dumps(found | {"rows": rows}))
    drawn = figure_files(tmp_path, "svg", 5.0)["sweep.svg"].decode()
    assert ">a0<" in drawn
    assert "\x1b" not in drawn


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"setting": {"seed": "4"}}, "settings of different fields"),
        ({"null": [1e308]}, "less than or equal to 1"),
        ({"effects": {"first": None, "second": None, "whole": float("nan")}}, "is no Selection"),
    ],
)
def test_what_a_sweep_cannot_have_found_is_not_drawn(swept, tmp_path, row, told):
    _, _, found = swept
    (tmp_path / "results").mkdir()
    rows = [found["rows"][0] | row, *found["rows"][1:]]
    (tmp_path / "results" / "sweep.json").write_text(json.dumps(found | {"rows": rows}))
    with pytest.raises(IntegrityError, match=told):
        figure_files(tmp_path, "svg", 5.0)
