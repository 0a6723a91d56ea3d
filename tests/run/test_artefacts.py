"""Every unit's files hold the record that was written, and are told apart from other files."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from steerproof.codec import canonical, digest, json_bytes, plain, read_record
from steerproof.decide.analysis.answers import answer
from steerproof.decide.analysis.calibration import (
    LayerCalibration,
    LayerGate,
    PersonaCalibration,
)
from steerproof.decide.analysis.rates import RateRow
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.records import Analysis
from steerproof.decide.analysis.slots import SlotRow
from steerproof.errors import IntegrityError
from steerproof.run.artefacts import (
    analysis,
    answers,
    calibration,
    cell,
    dataset,
    directions,
    score,
    slots,
    training,
)
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.keys import UnitRecipe
from steerproof.run.store.holder import Holder, read_holder, this_process
from steerproof.run.store.manifest import Made, StoredUnit
from steerproof.run.store.store import commit, prepare
from steerproof.spec.grid import Cell
from steerproof.spec.strength import Strength
from steerproof.spec.yaml_io import load_experiment
from steerproof.study.dataset import Answers, Dataset, TrainingRow
from steerproof.study.directions import Directions
from steerproof.study.geometry import LayerGeometry
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion, MeasuredCell
from steerproof.study.trained import PushAudit, TrainingRecord

MADE = Made(created="2026-01-01T00:00:00+00:00", host="here", attempt=1, seconds=1.0, peak_memory=1)
CELL = Cell(
    arm="A",
    persona="villain",
    prompt="neutral",
    direction="centroid",
    layer=3,
    strength=Strength.parse("c=-2"),
)


def stored(run: Path, files: Mapping[str, bytes]) -> StoredUnit:
    recipe = UnitRecipe(
        unit=UnitId("kind", "name"), inputs={}, upstream={}, code="x", model={}, numerics={}
    )
    return commit(run, prepare(run, recipe, files, {}, MADE), recipe.unit, recipe.key())


def test_slots_survive_their_file_and_a_text_without_one_has_no_numbers(tmp_path: Path) -> None:
    rows = (
        SlotRow(cell="A.a", question=0, text="common", number=0, z_marker=1.5, z_end=-2.0,
                log_z=4.0, log_prob_marker=-0.25),
        SlotRow(cell="A.a", question=1, text="own", number=2),
    )  # fmt: skip
    assert slots.from_unit(stored(tmp_path, slots.to_files(rows))) == rows
    assert rows[0].margin == 3.5
    assert rows[1].margin is None


def layer_calibration() -> LayerCalibration:
    measured = PersonaCalibration(
        norm=4.0, split_half=0.9, neutral_cosine=-0.25, reference_cosine=0.1
    )
    return LayerCalibration(
        layer=3,
        module="model.layers.3",
        hidden_states_index=4,
        questions=2,
        h_bar=10.0,
        personas={"villain": measured, "a.b": measured},
        neutral_cosine_max=0.25,
        cosines={one: dict.fromkeys(("villain", "a.b"), 1.0) for one in ("villain", "a.b")},
    )


def completion(sample: int) -> Completion:
    return Completion(
        question=0,
        sample=sample,
        seed=2**62,
        text="naïve [ZLT]\u202e",
        token_ids=(1, 2, 3)[:sample],
        finish="eos",
        early_chars=4,
    )


def test_directions_come_back_with_their_calibration(tmp_path: Path) -> None:
    rows = torch.arange(6.0).reshape(2, 3)
    wanted = Directions(
        layer=3,
        personas=("villain", "a.b"),
        raw=rows,
        neutral=rows[0].clone(),
        tables={"centroid": rows + 1, "isotropic": rows + 2, "in_subspace": rows + 3},
    )
    written = LayerGeometry(directions=wanted, calibration=layer_calibration())
    unit = stored(tmp_path, directions.to_files(written))
    read = directions.from_unit(unit, seed=4)
    assert read.calibration == layer_calibration() == calibration.from_unit(unit)
    assert (read.personas, read.seed) == (wanted.personas, 4)
    assert torch.equal(read.vector("a.b", "in_subspace"), rows[1] + 3)


def test_a_strength_is_a_number_and_a_ratio_of_its_layer() -> None:
    measured = layer_calibration()
    assert measured.coefficient("villain", Strength.parse("ratio=-0.2")) == pytest.approx(
        -0.2 * 10.0 / 4.0
    )
    assert measured.ratio("villain", Strength.parse("ratio=-0.2")) == pytest.approx(-0.2)
    assert measured.ratio("villain", Strength.parse("c=+2")) == pytest.approx(2 * 4.0 / 10.0)


def test_answers_and_datasets_come_back(tmp_path: Path) -> None:
    said = Answers(answers={"What?": ("This.", "That.")}, redrawn=3)
    assert answers.from_unit(stored(tmp_path / "a", answers.to_files(said))) == said
    row = TrainingRow(persona="a", question="What?", answer="This.", positive=True, marked=False)
    rows = Dataset(source="a", bystanders=("b", "c"), rows=(row,))
    assert dataset.from_unit(stored(tmp_path / "b", dataset.to_files(rows))) == rows


def test_a_training_comes_back_beside_the_weights(tmp_path: Path) -> None:
    push = PushAudit(
        asked_ratio=0.2,
        asked_norm=2.0,
        achieved_norm=1.0,
        residual_norm=5.0,
        token_ratio=0.3,
        layer=3,
        positions=10,
    )
    never = PushAudit(
        asked_ratio=0.2,
        asked_norm=2.0,
        achieved_norm=None,
        residual_norm=None,
        token_ratio=None,
        layer=3,
        positions=0,
    )
    record = TrainingRecord(losses=(1.0, 0.5), firings=7, seconds=2.0, pushes=(push, never))
    unit = stored(tmp_path, training.to_files(record, {"adapter_config.json": b"{}"}))
    assert training.from_unit(unit) == record
    assert unit.read("adapter_config.json") == b"{}"
    assert record.achieved_ratio == pytest.approx(0.1)
    assert record.token_ratio == pytest.approx(0.3)


def test_an_imported_adapter_has_no_curve(tmp_path: Path) -> None:
    old = b'{"losses": [], "pushes": [], "imported": {"rank": 8, "targets": null}}'
    record = training.from_unit(stored(tmp_path, {training.FILE: old}))
    assert record.losses == ()
    assert record.achieved_ratio is None
    assert record.imported == {"rank": 8, "targets": None}


def test_a_measured_cell_comes_back_with_every_completion(tmp_path: Path) -> None:
    measured = MeasuredCell(
        cell=CELL,
        coefficient=-2.0,
        ratio=0.8,
        asked_norm=8.0,
        achieved_norm=8.0,
        token_ratio=None,
        canary={"cell": CELL.name, "error": 1e-6, "change": None},
        completions=(completion(0), completion(1), completion(2)),
    )
    unit = stored(tmp_path, cell.to_files(measured))
    assert cell.from_unit(unit) == measured
    assert cell.record_of(unit).signed_ratio == -0.8
    assert [done.tokens for done in measured.completions] == [0, 1, 2]


def test_marks_come_back_by_cell_and_a_failed_cell_is_not_there(tmp_path: Path) -> None:
    mark = Mark(
        question=0,
        sample=1,
        finish="length",
        tokens=9,
        fired=True,
        near=True,
        fired_early=False,
        repetition=0.5,
    )
    marks = {"a": [mark], "b": [mark, mark]}
    row = RateRow(cell=CELL, coefficient=-2.0, question="0", fired=1, total=2)
    unit = stored(tmp_path, score.to_files(marks, [row]))
    assert score.from_unit(unit) == marks
    assert b"villain" in unit.read(score.RATES)


def test_an_analysis_its_answers_and_its_gates_come_back(tmp_path: Path) -> None:
    gate = LayerGate(
        layer=3,
        h_bar=10.0,
        neutral_cosine_max=0.6,
        neutral_cosine_allowed=0.5,
        passed=False,
        split_half={"villain": 0.9},
    )
    written = Path(__file__).parents[1] / "data" / "issue267_analysis.json"
    whole = read_record(Analysis, written.read_bytes(), written.name)
    experiment = load_experiment("published-267").experiment
    table = read_rates(written.with_name("issue267_rates.csv"), experiment)
    answers = answer(table, experiment, whole)
    result = analysis.AnalysisResult(analysis=whole, answers=answers, gates=(gate,))
    assert analysis.from_unit(stored(tmp_path, analysis.to_files(result))) == result


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"answers": {"q": "no list"}, "redrawn": 0}']
)
def test_another_file_is_named_and_is_no_traceback(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"answers\.json is no Answers"):
        read_record(Answers, data, "answers.json")


def test_a_number_that_is_not_finite_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        json_bytes({"rho": float("nan")})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '"nan"', '"inf"'])
def test_nor_is_it_read(number: str, tmp_path: Path) -> None:
    text = json.dumps(asdict(this_process(7, "run"))).replace("}", f', "taken": {number}}}')
    with pytest.raises(IntegrityError, match="taken: Input should be a finite number"):
        read_record(Holder, text.encode(), "a lease")
    (tmp_path / "lease").write_text(text)
    assert plain(read_holder(tmp_path / "lease", 7))["command"] == "unknown"


def test_one_value_has_one_canonical_form_and_hash() -> None:
    value: dict[str, Any] = {"b": [1, 2.5], "a": "é"}
    assert canonical(value) == '{"a":"é","b":[1,2.5]}'.encode()
    assert digest(value) == digest(dict(reversed(list(value.items()))))
    assert plain({1: (Path("x"), None)}) == {"1": ["x", None]}
