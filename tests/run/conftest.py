import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.forks import Forks

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Cheap child processes."""
    started = Forks()
    yield started
    started.close()


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory where fsync costs nothing; what a dying process leaves behind is the same."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)
