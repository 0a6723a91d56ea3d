"""One unit that is not what it should be costs itself and what reads it, and nothing else.

A finished unit is written anew with another content and sealed again, as no accident does: its
hashes are right, and only its meaning is wrong.
"""

import io
import json
import os
import re
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load, save

from steerproof.errors import ExperimentError, IntegrityError, SteerproofError, UnitsFailedError
from steerproof.run.artefacts import cell, directions, score, slots
from steerproof.run.artefacts.parquet import UNFIT
from steerproof.run.commands.concluding import rebuild_report
from steerproof.run.commands.figures import figure_files
from steerproof.run.commands.session import (
    new_session,
    run_experiment,
    session_in,
)
from steerproof.run.driver.executors import InlineExecutor, LocalExecutor
from steerproof.run.graph.names import SCORE
from steerproof.run.graph.survey import recorded
from steerproof.run.store.manifest import MANIFEST, FileHash, open_unit
from steerproof.run.store.store import results_damage
from steerproof.spec.yaml_io import load_experiment
from tests.run.asked import asked

PER_ADAPTER = 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    asked(directory)
    go(directory)
    return directory


@pytest.fixture
def place(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "place")
    return tmp_path / "place"


def go(directory):
    session = new_session(load_experiment(directory / "e.yaml"), directory / "run")
    return run_experiment(session, InlineExecutor(), listen=lambda *_: None)


def unit_of(place: Path, pattern: str) -> Path:
    (found,) = (place / "run" / "units").glob(pattern)
    return found


def reseal(unit: Path, **files: bytes) -> None:
    """Give a unit other files, and a manifest that says so."""
    manifest = open_unit(unit).manifest
    hashes = dict(manifest.files)
    for stem, data in files.items():
        (name,) = [name for name in hashes if name.startswith(stem)]
        (unit / name).write_bytes(data)
        hashes[name] = FileHash(sha256=sha256(data).hexdigest(), size=len(data))
    (unit / MANIFEST).write_bytes(replace(manifest, files=hashes).to_bytes())


def forget(place: Path, *kinds: str) -> None:
    for kind in kinds:
        shutil.rmtree(place / "run" / "units" / kind)


def cut(tensor):
    return tensor[:, :5].contiguous()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t * float("nan"), "no finite number"),
        (cut, "is .2, 5., not"),
        (lambda t: t * 1e18, "A.poet.neutral.none: .* nan nats"),
    ],
    ids=["nan", "shape", "huge"],
)
def test_a_spoilt_adapter_fails_its_own_cells_and_no_other(place, spoil, message):
    unit = unit_of(place, "adapter/A.poet-*")
    tensors = load((unit / "adapter_model.safetensors").read_bytes())
    reseal(unit, adapter_model=save({k: spoil(v) for k, v in tensors.items()}, {"format": "pt"}))
    forget(place, "cell", "score", "analysis")
    shutil.rmtree(place / "run" / "results")
    with pytest.raises(UnitsFailedError, match=rf"(?s)^6 of 49 units failed.*{message}"):
        go(place)
    made = [path.name for path in (place / "run" / "units" / "cell").iterdir()]
    assert len(made) == PER_ADAPTER * 5
    assert not any(name.startswith("A.poet") for name in made)
    assert (place / "run" / "results" / "report.html").exists()


def test_a_direction_of_zeros_fails_what_is_pushed_along_it_and_no_other(place):
    unit = unit_of(place, "directions/L1-*")
    tensors = load((unit / "directions.safetensors").read_bytes())
    tensors["L1.centroid"][0] = 0
    reseal(unit, directions=save(tensors))
    forget(place, "adapter", "cell", "score", "analysis")
    with pytest.raises(UnitsFailedError, match=r"(?s)centroid of pirate has norm 0"):
        go(place)
    adapters = {path.name.split("-")[0] for path in (place / "run/units/adapter").iterdir()}
    assert adapters == {"A.poet", "A.judge", "C.pirate", "C.poet", "C.judge"}
    cells = [path.name for path in (place / "run" / "units" / "cell").iterdir()]
    # Of pirate: none of arm A's, and of arm C's the two that are not pushed.
    assert len(cells) == 36 - 6 - 4


def test_one_persona_whose_rows_are_too_long_is_known_before_anything_is_done(place):
    experiment = json.loads((place / "e.yaml").read_text())
    experiment["personas"][1]["prompt"] = "You are a poet. " * 11
    experiment["training"]["max_length"] = 200
    (place / "e.yaml").write_text(json.dumps(experiment))
    shutil.rmtree(place / "run")
    with pytest.raises(ExperimentError, match=r"jsonl:1: .* has 240 tokens, and training\.max_l"):
        go(place)
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    "files",
    [
        *({"cell": b"{}"}, {"completions": b"PAR1 no table PAR1"}, {"cell": b"[" * 9999}),
        {"cell": None},
    ],
    ids=["record", "table", "nested", "another cell's"],
)
def test_one_odd_cell_is_missing_from_the_score_and_named_in_it(place, files):
    other = (unit_of(place, "cell/A.judge.neutral.none-*") / "cell.json").read_bytes()
    files = {stem: other if data is None else data for stem, data in files.items()}
    reseal(unit_of(place, "cell/A.poet.neutral.centroid.L1.c=+2-*"), **files)
    forget(place, "score", "analysis")
    summary, verdict = go(place)
    assert (summary.progress.done, summary.failures) == (2, ())
    assert verdict is not None
    scored = recorded(place / "run")[SCORE]
    assert list(json.loads(scored.read(score.UNREAD))) == ["cell/A.poet.neutral.centroid.L1.c=+2"]
    assert len(score.from_unit(scored)) == 35
    report = (place / "run" / "results" / "report.html").read_text()
    named = re.findall(r"One cell has no rates.*?A\.poet\.neutral\.centroid\.L1\.c=\+2: ", report)
    assert len(named) == 1
    assert str(place) not in report


@pytest.mark.parametrize(
    ("pattern", "stem", "old", "new", "message"),
    [
        ("directions/L1-*", "geometry", b'"poet"', b'"bard"', "lacks poet"),
        ("directions/L1-*", "geometry", b'"cosines": {', b'"cosines": {}, "x": {', "every two"),
        ("directions/L1-*", "geometry", b'"h_bar": ', b'"h_bar": -', "a length that is none"),
        ("dataset/judge-*", "dataset", b'"source": "judge"', b'"source": "poet"', "not of judge"),
    ],
)
def test_a_record_of_something_else_is_named(place, pattern, stem, old, new, message):
    unit = unit_of(place, pattern)
    (file,) = [path for path in unit.iterdir() if path.name.startswith(f"{stem}.json")]
    reseal(unit, **{stem: file.read_bytes().replace(old, new)})
    with pytest.raises(IntegrityError, match=message):
        rebuild_report(session_in(place / "run"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: {},
        lambda t: {name: value for name, value in t.items() if name != "L1.centroid"},
        lambda t: {**t, "L1.isotropic": t["L1.isotropic"][:1].contiguous()},
        lambda t: {**t, "L1.raw": t["L1.raw"].half()},
        lambda t: {**t, "L1.neutral": t["L1.neutral"] * float("inf")},
        lambda t: {**t, "L1.neutral": t["L1.neutral"].sum()},
    ],
    ids=["nothing", "no centroid", "one row", "half", "infinite", "one number"],
)
def test_directions_that_are_none_are_named(place, spoil):
    unit = unit_of(place, "directions/L1-*")
    reseal(unit, directions=save(spoil(load((unit / "directions.safetensors").read_bytes()))))
    with pytest.raises(IntegrityError, match="safetensors holds no directions: "):
        directions.from_unit(open_unit(unit))


def test_bytes_that_hold_no_directions_are_named(place):
    unit = unit_of(place, "directions/L1-*")
    reseal(unit, directions=(unit / "directions.safetensors").read_bytes()[:-4])
    with pytest.raises(IntegrityError, match="safetensors holds no directions: "):
        directions.from_unit(open_unit(unit))


@pytest.mark.parametrize("column", ["cell", "sample", "fired"])
@pytest.mark.parametrize("values", [None, pa.nulls, lambda rows: pa.array([[]] * rows)])
def test_marks_that_are_none_are_named(place, column, values):
    unit, file = unit_of(place, "score/all-*"), io.BytesIO()
    table = pq.ParquetFile(unit / "scores.parquet").read(use_threads=False)
    at = table.column_names.index(column)
    other = table.remove_column(at)
    if values is not None:
        other = table.set_column(at, column, values(len(table)))
    pq.write_table(other, file)
    reseal(unit, scores=file.getvalue())
    with pytest.raises(IntegrityError, match=r"scores\.parquet holds no marks: "):
        score.from_unit(open_unit(unit))


def test_slots_of_another_type_are_none():
    table = pa.table({name: pa.array([[]]) for name in ("cell", "question", "text")})
    with pytest.raises(UNFIT):
        slots.rows_of(table)
    numbers = {name: [None] for name in ("z_marker", "z_end", "log_z", "log_prob_marker")}
    table = pa.table({"cell": [None], "question": [0], "text": ["common.0"], **numbers})
    with pytest.raises(ValueError, match="a value of cell is missing"):
        slots.rows_of(table)


def test_without_the_marks_there_is_no_verdict_to_report(place):
    forget(place, "score")
    session = session_in(place / "run")
    assert rebuild_report(session) is None
    with pytest.raises(SteerproofError, match="no finished analysis in "):
        figure_files(place / "run", "svg", 3.4)


@pytest.mark.parametrize(
    "inputs",
    [{}, {"experiment": []}, {"experiment": {}}, {"experiment": {"scoring": {"judgements": 1}}}],
)
def test_marks_that_do_not_say_what_they_were_made_from_are_named(place, inputs):
    unit = unit_of(place, "score/all-*")
    manifest = open_unit(unit).manifest
    other = replace(manifest, recipe=replace(manifest.recipe, inputs=inputs))
    (unit / MANIFEST).write_bytes(other.to_bytes())
    with pytest.raises(
        IntegrityError, match=r"manifest\.json: what score/all was made from is no "
    ):
        rebuild_report(session_in(place / "run"))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["manifest.json", "made-from.json"])
def test_a_pipe_among_the_results_holds_nobody_up(place, name):
    file = place / "run" / "results" / name
    file.unlink()
    os.mkfifo(file)
    assert len(results_damage(place / "run")) == 1
    assert rebuild_report(session_in(place / "run")) is not None
    assert not results_damage(place / "run")


@pytest.mark.parametrize("question", [None, -1, 7])
def test_a_completion_of_no_question_is_none(place, question):
    unit = unit_of(place, "cell/A.poet.neutral.none-*")
    table = pq.ParquetFile(unit / "completions.parquet").read(use_threads=False)
    spoilt, file = pa.array([question] * len(table), pa.int32()), io.BytesIO()
    pq.write_table(table.set_column(0, "question", spoilt), file)
    reseal(unit, completions=file.getvalue())
    with pytest.raises(IntegrityError, match="holds no completions: a "):
        cell.completions_of(open_unit(unit))


def test_one_odd_record_of_training_is_named_and_the_report_made(place):
    reseal(unit_of(place, "adapter/A.poet-*"), training=b"{}")
    verdict = rebuild_report(session_in(place / "run"))
    assert verdict is not None
    report = (place / "run" / "results" / "report.html").read_text()
    assert "adapter/A.poet: training.json is no TrainingRecord" in report


def test_a_directory_whose_name_is_no_text_is_refused_before_workers_are_told(tmp_path):
    run = tmp_path / os.fsdecode(b"odd-\xff")
    session = new_session(asked(tmp_path), run)
    with pytest.raises(ExperimentError, match=r"not UTF-8, .*--executor inline"):
        run_experiment(session, LocalExecutor(tmp_path / "logs"), listen=lambda *_: None)
    assert not run.exists()
