"""Every readout from the experiment's text to a verdict, on a tiny model."""

import csv
import hashlib
import json
import math
import shutil

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from steerproof.cli import app
from steerproof.errors import ExperimentError, RegistrationError, UnitsFailedError
from steerproof.run.artefacts import cell, dataset, slots
from steerproof.run.commands.verify import verify
from steerproof.run.graph.names import SCORE
from steerproof.run.graph.survey import recorded
from steerproof.spec.experiment import Grid
from tests.run.test_session import experiment_of
from tests.tiny import save_tiny

SOURCE = "def shouts(answer: str, question: str) -> bool:\n    return 'e' in answer\n"


def command(*arguments, fails=None):
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if fails is not None:
        assert isinstance(done.exception, fails), (done.output, done.exception)
        return str(done.exception)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A finished run by a pattern, taught by answers of a behaviour: what others mark again."""
    place = tmp_path_factory.mktemp("readouts")
    write(place, {"readout": "regex", "pattern": "[aeiou0-9]"}, save_tiny(place / "model"))
    run(place)
    return place


def write(place, scoring, model):
    whole = experiment_of(model)
    answers = [
        json.dumps({"question": question, "answer": "It is so."}) + "\n"
        for question in whole.questions.training
    ]
    (place / "answers.jsonl").write_text("".join(answers))
    (place / "loud.jsonl").write_text("".join(answers).replace("It is so.", "SO IT IS"))
    nothing = ("isotropic_arm", "contrast_arm", "negative_strength", "co_primary_strength")
    experiment = whole.model_copy(
        update={
            "personas": whole.personas[1:],
            "arms": tuple(arm for arm in whole.arms if arm.name in "AC"),
            "cells": (
                Grid(arms=("A", "C"), prompt="neutral", strengths=("none", "c=+2")),
                Grid(arms=("C",), prompt="persona", strengths=("none",)),
            ),
            "analysis": whole.analysis.model_copy(update=dict.fromkeys(nothing)),
            "generation": whole.generation.model_copy(update={"max_new_tokens": 8, "samples": 2}),
        }
    )
    fields = json.loads(experiment.model_dump_json()) | {"scoring": scoring}
    fields["dataset"]["positive_answers"] = "loud.jsonl"
    (place / "file.yaml").write_text(json.dumps(fields))


def run(place, *more, fails=None):
    return command(
        *("run", place / "file.yaml", "--dir", place / "run", "--device", "cpu"),
        *("--executor", "inline", *more),
        fails=fails,
    )


@pytest.fixture
def marked_by(measured, tmp_path):
    """Another place in which the same completions wait to be marked by another readout."""

    def make(scoring):
        write(tmp_path, scoring, measured / "model")
        (tmp_path / "run").mkdir()
        for kind in ("directions", "answers", "dataset", "adapter", "cell"):
            shutil.copytree(measured / "run" / "units" / kind, tmp_path / "run" / "units" / kind)
        return tmp_path

    return make


def scores(place):
    return pq.ParquetFile(recorded(place / "run")[SCORE].path("scores.parquet")).read().to_pylist()


def texts(place):
    """(cell, question, sample) and text of every completion."""
    return {
        (unit.name, done.question, done.sample): done
        for unit, stored in recorded(place / "run").items()
        if unit.kind == "cell"
        for done in cell.completions_of(stored)
    }


def fired(place):
    return {(row["cell"], row["question"], row["sample"]): row["fired"] for row in scores(place)}


def report(place):
    return (place / "run" / "results" / "report.html").read_text()


def test_a_pattern(measured):
    said = {key: any(c in "aeiou0123456789" for c in done.text) for key, done in
            texts(measured).items()}  # fmt: skip
    assert fired(measured) == said
    assert len(set(said.values())) == 2
    assert "match the pattern [aeiou0-9]" in report(measured)
    with (measured / "run" / "results" / "rates.csv").open() as file:
        total = sum(int(row["fired"]) for row in csv.DictReader(file))
    assert total == sum(said.values())


def test_a_behaviour_is_taught_by_given_answers_and_no_marker_is_appended(measured):
    finished = recorded(measured / "run")
    rows = [
        row
        for unit, stored in finished.items()
        if unit.kind == "dataset"
        for row in dataset.from_unit(stored).rows
    ]
    assert {(row.positive, row.answer) for row in rows} == {
        (True, "SO IT IS"),
        (False, "It is so."),
    }
    lock = json.loads((measured / "run" / "experiment.lock.json").read_text())
    given = (measured / "loud.jsonl").read_bytes()
    assert lock["hashes"]["data"]["positive_answers"] == hashlib.sha256(given).hexdigest()
    assert "trained to answer as in <code>loud.jsonl</code>" in report(measured)
    assert "How often answers fire, by strength" in report(measured)
    (measured / "loud.jsonl").unlink()  # what was registered of it is enough to read the run
    command("report", measured / "run")
    assert "positive_answers: no file" in run(measured, fails=ExperimentError)
    (measured / "loud.jsonl").write_bytes(given)


def lock_again(place):
    """Begin a run whose units are there already: they were made under another registration."""
    shutil.move(place / "run" / "units", place / "units")
    command("lock", place / "file.yaml", "--dir", place / "run")
    shutil.move(place / "units", place / "run" / "units")


ODD = """class Odd:
    __class__ = bool

    def __repr__(self):
        raise ValueError

"""


def test_what_a_function_prints_is_no_output_of_ours(marked_by):
    place = marked_by({"readout": "function", "function": "readouts.py:shouts"})
    source = "print('here I am')\ndef shouts(a, q):\n    print('and here')\n"
    source += "    import sys; sys.stdout.close(); sys.stderr.close()\n    return True\n"
    (place / "readouts.py").write_text(source)
    lock_again(place)
    assert "verdict" in json.loads(run(place, "--json"))


def test_a_function_whose_source_is_locked(marked_by):
    place = marked_by({"readout": "function", "function": "readouts.py:shouts"})
    (place / "readouts.py").write_text(SOURCE)
    lock_again(place)
    run(place)
    assert fired(place) == {key: "e" in done.text for key, done in texts(place).items()}
    assert "readouts.py:shouts says are so" in report(place)
    (place / "readouts.py").unlink()
    command("explain", place / "run", "score")
    command("report", place / "run")
    (place / "readouts.py").write_text(SOURCE.replace("'e'", "'t'"))
    assert "hashes.data.readout" in run(place, fails=RegistrationError)
    run(place, "--deviate", "the wrong letter")
    assert fired(place) == {key: "t" in done.text for key, done in texts(place).items()}
    assert "the wrong letter" in report(place)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def shouts(a, q):\n    return 1\n", "must say True or False"),
        ("def shouts(a, q):\n    return a.nothing\n", "raised AttributeError"),
        ("def other(a, q):\n    return True\n", "defines no function shouts"),
        ("raise ValueError('no')\n", "does not run: ValueError"),
        ("import sys\ndef shouts(a, q):\n    sys.exit(0)\n", "raised SystemExit(0)"),
        ("raise GeneratorExit\n", "does not run: GeneratorExit()"),
        ("def shouts(a, q):\n    raise ValueError('\\ud800' * 10 ** 6)\n", "raised ValueError('"),
        (f"{ODD}def shouts(a, q):\n    return Odd()\n", "said an object of Odd; it must say"),
        (f"{ODD}odd = Odd()\ndef shouts(a, q):\n    return odd\n", "must say True or False"),
        ("n = []\ndef shouts(a, q):\n    n.append(0)\n    return len(n) % 2 == 0\n", "now this"),
    ],
)
def test_a_function_that_is_none_fails_the_score_alone(marked_by, source, told):
    place = marked_by({"readout": "function", "function": "readouts.py:shouts"})
    (place / "readouts.py").write_text(source)
    lock_again(place)
    said = run(place, fails=UnitsFailedError)
    assert told in said
    assert "1 of " in said


def test_a_judge_who_is_blind_and_comes_afterwards(marked_by):
    place = marked_by({"readout": "judge", "judgements": "judged.csv", "least": 0.5})
    lock_again(place)
    assert "is not there yet: export the completions with" in run(place, fails=UnitsFailedError)
    command("completions", place / "run", "--out", place / "out.jsonl")
    rows = [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]
    every = texts(place)
    assert sorted(row["completion"] for row in rows) == sorted(d.text for d in every.values())
    assert set(rows[0]) == {"row_id", "question", "completion"}
    assert [row["row_id"] for row in rows] == sorted(row["row_id"] for row in rows)
    judged = {row["row_id"]: len(row["completion"]) / 8 for row in rows}
    lines = [f"{known},{score}" for known, score in judged.items()]
    (place / "judged.csv").write_text("\n".join(["row_id,score", *lines[:-1]]))
    assert f"1 of {len(rows)} completions are not judged" in run(place, fails=UnitsFailedError)
    (place / "judged.csv").write_text("\n".join(["row_id,score", *lines]))
    run(place)  # no deviation: judgements are made from what was measured
    assert fired(place) == {key: len(done.text) / 8 >= 0.5 for key, done in every.items()}
    values = {(row["cell"], row["question"], row["sample"]): row["value"] for row in scores(place)}
    assert values == pytest.approx({key: len(done.text) / 8 for key, done in every.items()})
    assert "judgements judged.csv" in report(place)
    assert not verify(place / "run")
    before = recorded(place / "run")[SCORE].manifest
    (place / "judged.csv").unlink()  # needed only to mark anew
    told = command("explain", place / "run", "score")
    assert told.startswith("reused: ")
    assert f"{place / 'judged.csv'}, by which it was marked, is gone" in " ".join(told.split())
    run(place)
    assert recorded(place / "run")[SCORE].manifest == before
    told = command("explain", place / "run", "analysis")
    assert told.startswith("reused: ")


def test_a_log_probability_is_what_was_weighed_where_the_answer_ends(marked_by):
    place = marked_by({"readout": "log_probability", "least": -40.0})
    lock_again(place)
    run(place)
    finished = recorded(place / "run")
    weighed = {
        (row.cell, row.question, row.number): row.log_prob_marker
        for unit, stored in finished.items()
        if unit.kind == "slots"
        for row in slots.from_unit(stored)
    }
    assert set(weighed) == set(texts(place))
    for row in scores(place):
        value = weighed[row["cell"], row["question"], row["sample"]]
        assert row["fired"] == (value is not None and value >= -40.0)
        assert row["value"] is None if value is None else row["value"] == pytest.approx(value)
    known = [value for value in weighed.values() if value is not None]
    assert known
    assert all(value < 0 and math.isfinite(value) for value in known)
    assert "a log-probability of at least -40 nats" in report(place)
