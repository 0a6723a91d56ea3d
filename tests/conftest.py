"""How the whole suite stays short: what takes longest begins first, and nothing waits for a disk."""

import atexit
import gc
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests import typechecks

typechecks.install()

LONGEST = ()
"""Files that take longest, the longest first. Under `--dist loadfile` a file belongs to one process;
one that came last would leave the others idle. The rest follow in whatever order they are in."""

MEMORY = Path("/dev/shm")
_ROOM = 4 << 30
"""Bytes that must be free in `MEMORY` before temporary directories go there; half a GB is used."""


def pytest_configure() -> None:
    """Temporary directories in memory, where flushing costs nothing; what is compiled, kept."""
    roomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= _ROOM
    if roomy and "TMPDIR" not in os.environ:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    # Processes that tests start would compile the package again, each.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


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
