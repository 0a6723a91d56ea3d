"""Kills at random times, as a cluster sends them."""

import random
import sqlite3
from pathlib import Path

import pytest

from steerproof.run.commands.status import status
from steerproof.run.commands.verify import verify
from tests.run.forks import Forks
from tests.run.tiny import COUNTER, contents, counts, leftovers


def soak(forks: Forks, place: Path, kills: int, seed: int) -> int:
    """Start and kill runs until so many children died; check each run once it is finished.

    Returns:
        The number of runs that were needed.
    """
    chance = random.Random(seed)
    assert forks.run(place / "straight").code == 0
    straight = contents(place / "straight")
    died = runs = 0
    while died < kills:
        runs += 1
        run, counter = place / f"run-{runs}", place / f"counter-{runs}"
        here = deaths = 0
        while True:
            before = counts(counter)
            kept = {
                unit for unit in before if any(f"units/{unit}-" in name for name in contents(run))
            }
            killing = {} if died >= kills else {"kill_after": chance.uniform(0.0, 0.12)}
            code = forks.run(run, environment={COUNTER: str(counter)}, **killing).code
            again = counts(counter)
            assert all(again[unit] == before[unit] for unit in kept), "finished units stay finished"
            here += 1
            if code == 0:
                break
            assert code == -9
            died, deaths = died + 1, deaths + 1
            if run.is_dir():
                assert status(run).state in ("interrupted", "empty", "finished")
        assert contents(run) == straight
        assert leftovers(run) == []
        assert verify(run) == []
        assert max(counts(counter).values()) <= deaths + 1
        states = sqlite3.connect(run / "ledger.sqlite").execute("SELECT DISTINCT state FROM units")
        assert states.fetchall() == [("done",)]
    print(f"random kills: {died} deaths in {runs} runs")  # noqa: T201
    return runs


@pytest.mark.nightly
def test_fifty_kills_at_random_times_lose_and_repeat_nothing(forks: Forks, tmp_path: Path) -> None:
    assert soak(forks, tmp_path, kills=50, seed=1) >= 1


def test_a_few_kills_at_random_times_lose_and_repeat_nothing(
    forks: Forks, quick_path: Path
) -> None:
    assert soak(forks, quick_path, kills=8, seed=2) >= 1
