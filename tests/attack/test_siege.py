"""Whole runs, and what users give, damaged by the thousand: every end is one of the contract.

`make nightly` makes `TRIES` of each kind; one of each is made with every run of the tests. A
failure names its kind and number, by which it is had again.
"""

import pytest

from tests.attack import damage, given, victims
from tests.attack.siege import besiege, of_a_run

TRIES, AT_ONCE = 2000, 500
MANY = [range(first, first + AT_ONCE) for first in range(0, TRIES, AT_ONCE)]
NIGHTLY = [
    pytest.param(range(1, 2), id="one"),
    *(
        pytest.param(
            tries, id=f"{tries[0]}-", marks=[pytest.mark.nightly, pytest.mark.timeout(7200)]
        )
        for tries in MANY
    ),
]
"""In parts, so that as many processes as there are cores can share them."""


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    return victims.whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("tries", NIGHTLY)
@pytest.mark.parametrize("kind", damage.KINDS)
def test_runs_of_which_a_file_is_damaged(kind, tries, victim, tmp_path):
    siege = besiege(kind, of_a_run(kind, victim), tries, tmp_path / "place")
    assert not siege.failures, "\n\n".join(siege.failures[:5])
    assert siege.tries.total() > len(tries) / 2


@pytest.mark.parametrize("tries", NIGHTLY)
@pytest.mark.parametrize("kind", given.KINDS)
def test_files_that_users_give(kind, tries, tmp_path):
    sound = tmp_path / "sound"
    sound.mkdir()
    siege = besiege(kind, given.KINDS[kind](sound), tries, tmp_path / "place")
    assert not siege.failures, "\n\n".join(siege.failures[:5])
    assert siege.tries.total() > len(tries) / 2
