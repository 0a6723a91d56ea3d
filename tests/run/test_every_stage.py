"""A worker that is started early imports every stage, and looks for no garbage while it does."""

import gc
import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

from steerproof.garbage import importing, not_collecting
from steerproof.run.commands import session
from steerproof.run.graph.environment import stage_module
from steerproof.run.graph.units import KINDS


def test_all_are_imported_though_one_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_spec(session.EVERY_STAGE) is not None
    monkeypatch.delitem(sys.modules, session.EVERY_STAGE, raising=False)
    asked: list[tuple[str, bool]] = []
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if not name.startswith("steerproof.run.stages."):
            return real(name, package)
        asked.append((name, gc.isenabled()))
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    try:
        real(session.EVERY_STAGE)
        assert asked == [(stage_module(kind), False) for kind in KINDS]
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_what_was_imported_is_never_looked_through_again() -> None:
    gc.unfreeze()
    try:
        with importing():
            made = [[one] for one in range(100)]
        assert gc.get_freeze_count() >= len(made)
    finally:
        gc.unfreeze()


def test_garbage_is_looked_for_again_whatever_happened_and_not_where_it_was_not_before() -> None:
    def fail() -> None:
        with not_collecting():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()
    with not_collecting():
        with not_collecting():
            pass
        assert not gc.isenabled()
