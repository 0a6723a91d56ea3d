"""The documented cells on where a direction acts and whether it is needed: file to report."""

import csv
import json
import re
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from steerproof.run.artefacts.cell import record_of
from steerproof.run.commands.session import new_session
from steerproof.run.graph.names import cell_unit
from steerproof.run.graph.survey import recorded
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell, cells
from steerproof.spec.yaml_io import load_experiment
from tests.run.test_session import experiment_of, go
from tests.tiny import save_tiny

DOCUMENTED = Path(__file__).parents[2] / "docs" / "statistics.md"
PLAIN = """\
cells:
  - {arms: [A, C], prompt: neutral, strengths: [none, c=+2, ratio=+0.2]}
  - {arms: [A, C], prompt: persona, strengths: [none]}
"""


def documented() -> str:
    """The block of YAML that a reader is shown, as it is."""
    found = re.search(
        r"<!-- mechanism:begin -->\n```yaml\n(cells:\n.*?)```\n<!-- mechanism:end -->",
        DOCUMENTED.read_text("utf-8"),
        re.DOTALL,
    )
    assert found
    return found[1]


def written(directory: Path, model: Path) -> Path:
    """An experiment file on a tiny model, with the documented lines after its own cells."""
    small = experiment_of(model)
    small = small.model_copy(update={"personas": small.personas[1:]})
    settings = {
        "isotropic_arm": None,
        "contrast_arm": None,
        "iterations": 200,
        "permutations": 99,
        "negative_strength": None,
    }
    base = small.model_dump(mode="json", exclude_defaults=True) | {
        "arms": [a.model_dump(mode="json") for a in small.arms if a.name in ("A", "C")],
        "analysis": settings,
    }
    del base["cells"]
    questions = small.questions.training
    (directory / "answers.jsonl").write_text(
        "".join(json.dumps({"question": q, "answer": "It is so."}) + "\n" for q in questions)
    )
    path = directory / "small.yaml"
    further = documented().removeprefix("cells:\n")
    path.write_text(yaml.safe_dump(base, sort_keys=False) + PLAIN + further)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, dict, Path]:
    """The experiment as loaded from its file, its finished units, and its directory."""
    loaded = load_experiment(
        str(written(tmp_path_factory.mktemp("file"), save_tiny(tmp_path_factory.mktemp("model"))))
    )
    session = new_session(loaded, tmp_path_factory.mktemp("run") / "run")
    go(session)
    return loaded.experiment, recorded(session.run), session.run


def measured(run, **fields: object) -> list[Cell]:
    return [
        cell
        for cell in cells(run[0])
        if all(getattr(cell, name) == value for name, value in fields.items())
    ]


def test_every_documented_cell_has_a_rate(run) -> None:
    count = len(run[0].headline)
    for fields, expected in (
        ({"tokens": "prompt"}, count),
        ({"tokens": "last_prompt"}, count),
        ({"tokens": "generated"}, count),
        ({"operation": "remove", "arm": "A"}, count),
        ({"operation": "remove", "arm": "C"}, count),
        ({"draw": 19}, count),
        ({"draw": 20}, 0),
    ):
        assert len(measured(run, **fields)) == expected, fields
    with (run[2] / "results" / "rates.csv").open() as file:
        rows = list(csv.DictReader(file))
    totals = {
        tuple(row[key] for key in ("persona", "draw", "tokens", "operation", "arm"))
        for row in rows
        if int(row["total"]) > 0
    }
    for cell in measured(run):
        if not cell.plain:
            told = (cell.draw, cell.tokens, cell.operation)
            assert (cell.persona, *(str(v) if v else "" for v in told), cell.arm) in totals


def test_each_way_to_push_is_another_push(run) -> None:
    """The same text is weighed in every cell; where pushes are the same, so is its weight."""
    push = {"arm": "A", "persona": "poet", "prompt": "neutral"}
    kinds = [
        {**push, "strength": run[0].analysis.co_primary_strength, "direction": "centroid", **more}
        for more in (
            {"tokens": None},
            {"tokens": "prompt"},
            {"tokens": "last_prompt"},
            {"tokens": "generated"},
        )
    ]
    kinds += [{**push, "draw": 1}, {**push, "draw": 2}]
    found = []
    for fields in kinds:
        cell = next(c for c in measured(run, **fields) if "draw" in fields or c.draw is None)
        found.append(record_of(run[1][cell_unit(cell)]).canary["mean_log_prob"])
    assert len(set(found)) == len(found)


def test_the_answers_compare_each_with_the_cell_that_differs_in_that_alone(run) -> None:
    """Recomputed from the published table, by the csv module alone."""
    with (run[2] / "results" / "rates.csv").open() as file:
        rows = list(csv.DictReader(file))

    def mean(**fields: str) -> float:
        rates = []
        for persona in run[0].headline:
            counted = [
                row
                for row in rows
                if row["persona"] == persona and all(row[k] == v for k, v in fields.items())
            ]
            rates.append(
                sum(int(r["fired"]) for r in counted) / sum(int(r["total"]) for r in counted)
            )
        return fmean(rates)

    told = json.loads((run[2] / "results" / "verdict.json").read_bytes())["answers"]
    assert len(told["pushes"]) == 5
    for found in told["pushes"]:
        removed = "operation remove" in found["kind"]
        plain = {"draw": "", "tokens": "", "operation": "", "arm": found["arm"]}
        if removed:
            bent = {**plain, "operation": "remove"}
            usual = {**plain, "prompt": "persona", "strength": "none"}
        else:
            tokens = found["kind"].rpartition(" ")[2]
            bent = {**plain, "tokens": tokens}
            usual = {**plain, "prompt": "neutral", "strength": "ratio=+0.2"}
        assert found["rate"] == pytest.approx(mean(**bent))
        assert found["usual"] == pytest.approx(mean(**usual))
        assert found["difference"]["value"] == pytest.approx(mean(**bent) - mean(**usual))
    assert told["direction"]["draws"]["draws"] == 19
    report = (run[2] / "results" / "report.html").read_text("utf-8")
    assert 'id="mechanism"' in report
    assert "tokens last_prompt" in report
    assert "operation remove" in report
    assert "19 fresh random directions" in report
