"""How the whole suite stays short: the longest files begin first, and nothing waits for a disk."""

import atexit
import gc
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from tests import typechecks

typechecks.install()

LONGEST = (
    "tests/board/test_real_run.py",
    "tests/door/test_tour.py",
    "tests/run/test_processes.py",
    "tests/run/test_init.py",
    "tests/board/test_browser.py",
    "tests/door/test_notebooks.py",
    "tests/run/test_ray.py",
    "tests/run/test_real_run.py",
    "tests/decide/test_answers.py",
    "tests/run/test_sweep.py",
)
"""Files that take longest, the longest first: `--dist loadfile` gives a file to one process, and a
long one that came last would leave the others idle. The rest follow in the order they are in."""

MEMORY = Path("/dev/shm")
_ROOM = 4 << 30
"""Bytes that must be free in `MEMORY` before temporary directories go there; half a GB is used."""


def pytest_configure() -> None:
    """Put temporary directories in memory, where flushing to the disk costs nothing."""
    roomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= _ROOM
    if roomy and "TMPDIR" not in os.environ:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import without looking for garbage, and never look through what was imported: 10 s less."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # some libraries call what is left at the very end a leak
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; pytest-randomly has shuffled before."""
    ranks = {file: rank for rank, file in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))
