import json
import os
import shutil
import sqlite3
import time

import numpy as np
import pyarrow as pa
import pytest

from steerproof.board import completions, runs
from steerproof.board.cell_rates import cell_rates
from steerproof.board.completions import CellFiles, Filter
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import SCORE
from steerproof.run.store.directory import open_run
from steerproof.spec.grid import cells
from steerproof.study.readouts.load import text_readout
from steerproof.study.readouts.marker import mark_of, rule
from tests.board import rig

CELL = "A.poet.neutral.centroid.L1.c=+2"


@pytest.fixture
def run(judged_run, tmp_path):
    return shutil.copytree(judged_run, tmp_path / "run")


def test_a_judged_run_is_judged_and_nobody_is_at_it(run):
    found = runs.condition(run)
    assert found.verdict == "SUPPORTED"
    assert (found.live, found.interrupted, found.failed) == (False, False, 0)
    assert found.done == found.total == 30


def test_it_is_running_only_while_its_process_lives(run):
    (run / "results" / "verdict.json").unlink()
    with open_run(run, "steerproof run") as held:
        held.ledger.set_state(UnitId("cell", CELL), "running")
        found = runs.condition(run)
        assert found.live
        assert found.states["running"] == 1
    lease = max((run / "lock").glob("lease-*.json"))
    record = json.loads(lease.read_text())
    lease.write_text(json.dumps(record | {"released": False, "pid": 2**22 + 1}))
    found = runs.condition(run)
    assert not found.live
    assert found.interrupted
    assert found.states["running"] == 0
    assert found.states["interrupted"] == 1


def test_a_holder_on_another_machine_lives_by_its_heartbeat(run):
    with open_run(run, "steerproof run"):
        lease = max((run / "lock").glob("lease-*.json"))
        record = json.loads(lease.read_text())
        lease.write_text(json.dumps(record | {"host": "another 1"}))
        assert runs.is_live(run)
        old = time.time() - 3600
        os.utime(lease, (old, old))
        assert not runs.is_live(run)
        lease.write_text(json.dumps(record))


def test_the_fingerprint_changes_with_the_run_and_not_with_its_readers(run):
    before = runs.fingerprint(run)
    runs.story(run)
    runs.condition(run)
    assert runs.fingerprint(run) == before
    (run / "results" / "verdict.json").write_text("{}")
    assert runs.fingerprint(run) != before


def test_rates_are_the_score_units(run):
    experiment = runs.experiment(run)
    names = [cell.name for cell in cells(experiment)]
    rates = cell_rates(run, names, experiment)
    text = (run / "results" / "rates.csv").read_text().splitlines()[1:]
    fired = sum(
        int(line.split(",")[-2]) for line in text if line.startswith("A,poet,neutral,centroid")
    )
    assert rates[CELL].fired == fired
    assert rates[CELL].total == 6


def test_before_scoring_the_same_marks_are_made_from_the_texts(run):
    experiment = runs.experiment(run)
    names = [cell.name for cell in cells(experiment)]
    scored = cell_rates(run, names, experiment)
    with open_run(run, "x") as held:
        held.ledger.set_state(SCORE, "waiting")
    marked = cell_rates(run, names, experiment)
    assert {n: (r.fired, r.total) for n, r in marked.items()} == {
        n: (r.fired, r.total) for n, r in scored.items()
    }


def test_a_cell_that_was_not_measured_has_no_rate(run):
    with open_run(run, "x") as held:
        held.ledger.set_state(SCORE, "waiting")
        held.ledger.set_state(UnitId("cell", CELL), "failed")
    found = cell_rates(run, [CELL], runs.experiment(run))[CELL]
    assert (found.state, found.rate, found.total) == ("failed", None, None)


def test_a_damaged_cell_is_called_damaged(run):
    with open_run(run, "x") as held:
        held.ledger.set_state(SCORE, "waiting")
    place = next((run / "units" / "cell").glob(f"{CELL}-*")) / "completions.parquet"
    data = bytearray(place.read_bytes())
    data[100] ^= 1
    place.write_bytes(data)
    assert cell_rates(run, [CELL], runs.experiment(run))[CELL].state == "damaged"
    with pytest.raises(completions.UnreadableCellError):
        completions.files_of(run, CELL, text_readout(runs.experiment(run)))


def test_a_ledger_that_cannot_be_read_is_a_sentence_not_a_crash(run):
    (run / "ledger.sqlite").write_bytes(b"not a database, not at all" * 100)
    found = runs.condition(run)
    assert found.problem
    assert found.done == found.total == 30, "what the units themselves tell"


def test_torn_files_are_as_if_they_were_not_there(run):
    (run / "results" / "verdict.json").write_text('{"verdict": "SUPP')
    (run / "experiment.lock.json").write_text("[]")
    assert runs.condition(run).verdict is None
    assert runs.experiment(run) is None
    assert runs.title(run) == "run"


@pytest.mark.parametrize(
    "chosen",
    [
        Filter(),
        Filter(fired=True),
        Filter(fired=False),
        Filter(question=1),
        Filter(finish="length"),
        Filter(least_tokens=30),
        Filter(fired=True, question=2),
    ],
)
@pytest.mark.parametrize("scored", [True, False])
def test_pages_are_the_filtered_table(tmp_path, chosen, scored):
    files = make_cell(tmp_path, questions=7, samples=9, group=10, scored=scored)
    everything = list(completions.all_rows(files, "X"))
    kept = [
        row for row in everything
        if (chosen.fired is None or row.fired == chosen.fired)
        and (chosen.question is None or row.question == chosen.question)
        and (chosen.finish is None or row.finish == chosen.finish)
        and (chosen.least_tokens is None or row.tokens >= chosen.least_tokens)
    ]  # fmt: skip
    assert len(everything) == 63
    assert all(row.fired == ("[zlt]" in row.text.lower()) for row in everything)
    found = []
    for offset in range(0, 70, 8):
        page = completions.read_page(files, "X", chosen, offset, 8)
        assert (page.matching, page.total) == (len(kept), 63)
        found += page.rows
    assert found == kept


def test_rows_of_another_cell_are_found_by_question_and_sample(tmp_path):
    files = make_cell(tmp_path, questions=5, samples=4, group=3, scored=True)
    found = completions.read_rows(files, "X", [(4, 3), (0, 1), (9, 9)])
    assert set(found) == {(4, 3), (0, 1)}
    assert found[4, 3].text == text(4, 3)


def test_a_hundred_thousand_completions_are_read_by_the_page(tmp_path):
    body = "word " * 100
    rows = [(q, s, f"{body}{q}.{s}") for q in range(1000) for s in range(100)]
    (tmp_path / "c.parquet").write_bytes(rig.completions_bytes(rows, group=2000))
    files = CellFiles(completions=tmp_path / "c.parquet", scores=None, read=marker_only)
    completions.read_page(files, "X", Filter(), 0, 20)
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        page = completions.read_page(files, "X", Filter(), 50_000, 20)
    finally:
        pa.set_memory_pool(usual)
    assert page.total == 100_000
    assert [row.text for row in page.rows] == [f"{body}500.{s}" for s in range(20)]
    assert 0 < pool.max_memory() < 4_000_000  # the texts are 50 MB


def text(question: int, sample: int) -> str:
    words = f"answer {question} {sample} " + "word " * (20 + (question * 7 + sample) % 40)
    return words + ("[Zlt]" if (question + sample) % 3 == 0 else "")


def marker_only(completion):
    return mark_of(completion, rule("[ZLT]"))


def make_cell(place, questions, samples, group, scored):
    rows = [(q, s, text(q, s)) for q in range(questions) for s in range(samples)]
    (place / "c.parquet").write_bytes(rig.completions_bytes(rows, group))
    if scored:
        # In another order, and with another cell's rows in between.
        order = np.random.default_rng(0).permutation(len(rows))
        rig.write_scores(place / "s.parquet", [rows[i] for i in order])
    return CellFiles(
        completions=place / "c.parquet",
        scores=place / "s.parquet" if scored else None,
        read=marker_only,
    )


def test_time_left_is_counted_from_this_process_only(run):
    assert runs.seconds_left(run) == (None, False)
    with open_run(run, "x") as held:
        held.ledger.set_state(UnitId("cell", CELL), "waiting")
        assert runs.seconds_left(run) == (None, True)
        db = sqlite3.connect(run / "ledger.sqlite")
        db.execute(
            "INSERT INTO attempts (unit, key, state, started, ended, seconds, host, pid)"
            " VALUES ('cell/other', 'k', 'done', ?, ?, 3, 'h', 1)",
            (time.time(), time.time() + 3),
        )
        db.commit()
        db.close()
        left, partial = runs.seconds_left(run)
        assert left == pytest.approx(3, abs=0.01)
        assert partial is False


def test_discovery_takes_a_run_or_a_directory_of_runs(run, tmp_path):
    assert runs.discover([run]) == (run.resolve(),)
    assert runs.discover([tmp_path]) == (run.resolve(),)
    assert runs.discover([tmp_path / "nothing"]) == ()
