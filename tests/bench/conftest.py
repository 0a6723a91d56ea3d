import pytest

from steerproof_bench import costs


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch):
    """Measuring the machine's limits takes seconds, and is not what these tests are about."""
    monkeypatch.setattr(costs, "matrix_peak", lambda *_: 1e11)
    monkeypatch.setattr(costs, "copy_bandwidth", lambda *_: 1e10)
