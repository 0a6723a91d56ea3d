"""Thousands of damaged inputs through the commands: a code of the contract, never a traceback.

`make nightly` makes `TRIES` of each kind; a few of each are made with every run of the tests.
"""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steerproof.board.database import open_board, transaction
from steerproof.cli import app
from steerproof.errors import SteerproofError
from tests.attack.databases import damaged_database, odd_value
from tests.attack.mutations import VALUES, mutated_bytes, mutated_json, mutated_lines
from tests.run.asked import FIELDS, asked
from tests.run.tiny import run_tiny
from tests.spec.files import TINY

TRIES, FEW = 2000, 25
CODES = {0, 2, 3, 4, 5, 6, 7}
NIGHTLY = [
    pytest.param(FEW, id="few"),
    pytest.param(TRIES, id="many", marks=[pytest.mark.nightly, pytest.mark.timeout(7200)]),
]
PROPOSAL = """---
title: A proposal
hypothesis: It reads.
experiment: zlt
tags: [a, b]
---
# A proposal

Text.
"""


def code(*words: object) -> int:
    """The exit code of a command; an error that is not foreseen is raised."""
    ended = CliRunner().invoke(app, [str(word) for word in words])
    error = ended.exception
    if error is None or isinstance(error, SystemExit):
        return ended.exit_code
    if isinstance(error, SteerproofError):
        return error.exit_code
    raise error


def test_a_mutation_is_had_again_from_its_number_alone():
    def drawn(number):
        return repr(mutated_json({"a": [[1], {}], "b": {"c": []}}, random.Random(number)))

    before = repr(VALUES)
    first = [drawn(number) for number in range(2000)]
    assert [drawn(number) for number in reversed(range(2000))] == first[::-1]
    assert repr(VALUES) == before


@pytest.mark.parametrize("tries", NIGHTLY)
def test_experiments(tries, tmp_path):
    chance, file, seen = random.Random(21), tmp_path / "e.yaml", Counter()
    for _ in range(tries):
        match chance.randrange(3):
            case 0:
                file.write_bytes(mutated_bytes(TINY.encode(), chance))
            case 1:
                file.write_text(json.dumps(mutated_json(dict(FIELDS), chance)))
            case _:
                file.write_bytes(mutated_lines(TINY, chance).encode(errors="replace"))
        seen[code("plan", file, "--no-trial", "--dir", tmp_path / "run")] += 1
    assert seen.keys() <= CODES
    assert seen[2] > tries / 2


@pytest.mark.parametrize("tries", NIGHTLY)
def test_rate_tables(tries, tmp_path):
    chance, seen = random.Random(22), Counter()
    asked(tmp_path)
    good = "arm,persona,prompt,direction,layer,strength,coefficient,question,fired,total\n"
    for arm in "AC":
        for persona in ("pirate", "poet", "judge"):
            for prompt in ("neutral", "persona"):
                good += f"{arm},{persona},{prompt},none,,none,0,0,1,5\n"
                good += f"{arm},{persona},{prompt},centroid,1,c=+2,2,1,2,5\n"
    for _ in range(tries):
        data = mutated_lines(good, chance).encode(errors="surrogatepass")
        if chance.random() < 0.3:
            data = mutated_bytes(good.encode(), chance)
        (tmp_path / "rates.csv").write_bytes(data)
        seen[code("analyze", tmp_path / "rates.csv", tmp_path / "e.yaml")] += 1
    assert seen.keys() <= CODES
    assert seen[2] > tries / 3


@pytest.mark.parametrize("tries", NIGHTLY)
def test_proposals(tries, tmp_path):
    chance, file, seen = random.Random(23), tmp_path / "p.md", Counter()
    for number in range(tries):
        file.write_bytes(mutated_bytes(PROPOSAL.encode(), chance))
        board = tmp_path / f"board-{number // 50}"
        seen[code("propose", file, "--board-dir", board)] += 1
    assert seen.keys() <= CODES


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("finished") / "run"
    run_tiny(place)
    return place


def test_what_a_database_would_refuse_is_put_into_it_all_the_same(tmp_path):
    sound = open_board(tmp_path)
    with transaction(sound) as rows:
        rows.execute("INSERT INTO entry (number, title, kind, created) VALUES (1, 't', 'k', 'c')")
        rows.execute("INSERT INTO event (number, what, at) VALUES (1, 'w', 'a')")
    data, did = sound.read_bytes(), set()
    for number in range(150):  # some of which draw a text that SQLite cannot keep
        file = tmp_path / f"{number}.sqlite"
        file.write_bytes(data)
        did.add(odd_value(file, random.Random(number)))
    assert {"event.what", "entry.number", "a value that cannot be kept"} <= did


@pytest.mark.parametrize("tries", NIGHTLY)
def test_ledgers(tries, finished, tmp_path):
    chance, run, seen = random.Random(24), tmp_path / "run", Counter()
    for number in range(tries):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run)
        damaged_database(run / "ledger.sqlite", chance)
        seen[code(("status", "verify")[number % 2], run)] += 1
        if number % 10 == 0:
            assert run_tiny(run).failures == ()
    assert seen.keys() <= {0, 7}


@pytest.mark.parametrize("tries", NIGHTLY)
def test_files_of_a_run(tries, finished, tmp_path):
    chance, run, seen = random.Random(25), tmp_path / "run", Counter()
    files = [path.relative_to(finished) for path in sorted(finished.rglob("*")) if path.is_file()]
    for number in range(tries):
        if number % 10 == 0:
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(finished, run)
        name = chance.choice(files)
        content = (finished / name).read_bytes()
        if name.name.startswith(("manifest", "lease")) and chance.random() < 0.5:
            (run / name).write_text(json.dumps(mutated_json(json.loads(content), chance)))
        else:
            (run / name).write_bytes(mutated_bytes(content, chance))
        seen[code(("status", "verify")[number % 2], run)] += 1
    assert seen.keys() <= {0, 7}
