"""The kill-point matrix: a child dies at a u place, the same command goes on."""

import sqlite3
from pathlib import Path

import pytest

from tests.run.forks import Forks
from tests.run.tiny import COUNTER, contents, counts, leftovers

KINDS = ("directions", "adapter", "cell", "analysis")
PLACES = tuple(
    f"{place}.{when}"
    for place in ("temp", "fsync", "manifest", "rename", "ledger")
    for when in ("before", "after")
)
POINTS = [f"{place}/{kind}" for place in PLACES for kind in KINDS]
POINTS += ["release.before", "release.after"]
# The place after which a unit is finished: a kill there or later must not cost a second execution.
FINISHED = ("rename.after", "ledger.before", "ledger.after", "release.before", "release.after")


@pytest.fixture(scope="module")
def straight(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Artefact hashes of a run that nothing interrupted."""
    run = tmp_path_factory.mktemp("straight") / "run"
    assert forks.run(run, units="chain").code == 0
    return contents(run)


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
@pytest.mark.parametrize("point", POINTS)
def test_the_same_command_goes_on_after_a_death_at_every_point(
    point: str, signal: str, forks: Forks, straight: dict[str, str], quick_path: Path
) -> None:
    run, counter = quick_path / "run", quick_path / "counter"
    environment = {COUNTER: str(counter), "STEERPROOF_FAULT": f"{point}:{signal}"}

    died = forks.run(run, units="chain", environment=environment)
    before = counts(counter)
    finished = set(contents(run))
    resumed = forks.run(run, units="chain", environment={COUNTER: str(counter)})

    # A TERM that arrives when all is done, at the release of the lock, changes nothing.
    stopped = 0 if point.startswith("release") else 130
    assert died.code == {"KILL": -9, "TERM": stopped}[signal], died.errors
    assert resumed.code == 0, resumed.errors
    assert contents(run) == straight
    assert leftovers(run) == []
    assert finished <= set(contents(run))
    again = {unit for unit, times in counts(counter).items() if times > before.get(unit, 0)}
    kept = {unit for unit in before if any(f"units/{unit}-" in name for name in finished)}
    assert again.isdisjoint(kept)
    in_hand = point.partition("/")[2]
    lost = {unit for unit in before if unit.startswith(f"{in_hand}/")} - kept
    assert bool(lost) == (signal == "KILL" and not point.startswith(FINISHED))
    totals = dict(
        sqlite3.connect(run / "ledger.sqlite").execute(
            "SELECT state, count(*) FROM attempts GROUP BY state"
        )
    )
    assert totals["done"] == 4
    assert "running" not in totals


def test_the_matrix_covers_every_point_kind_and_signal() -> None:
    print(f"kill-point matrix: {2 * len(POINTS)} deaths")  # noqa: T201
    assert 2 * len(POINTS) == 84
