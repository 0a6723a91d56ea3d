import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from steerproof.errors import ExperimentError
from steerproof.run import mirrors as module
from steerproof.run.driver.executors import InlineExecutor
from steerproof.run.driver.scheduler import Progress, execute
from steerproof.run.mirrors import Mirrored, Mirrors, scalars
from steerproof.run.store.directory import open_run
from steerproof.run.store.ledger import Event
from tests.run.tiny import tiny_graph

PROGRESS = Progress(total=9, reused=0, done=1, running=0, failed=0, blocked=0)
EVENT = Event(time=1.0, what="unit-done", unit="cell/a", detail={"seconds": 0.5, "log": "x"})


def raising(run: Path, messages: Iterator[Mapping[str, Any]]) -> None:
    raise RuntimeError("quota exceeded")


def sleeping(run: Path, messages: Iterator[Mapping[str, Any]]) -> None:
    time.sleep(3600)


def writing(run: Path, messages: Iterator[Mapping[str, Any]]) -> None:
    (run / "heard.json").write_text(json.dumps(list(messages)))


def mirrored(run: Path, name: str, seconds: float = 20.0) -> Mirrored:
    """What becomes of a mirror of a whole tiny run, which must come out as ever."""
    mirrors = Mirrors(run, [name])
    with open_run(run, "x") as directory:
        summary = execute(tiny_graph(), directory, InlineExecutor(), listen=mirrors.tell)
    assert summary.progress.done == 9
    (ended,) = mirrors.close(seconds)
    return ended


def test_a_mirror_hears_every_event_in_order(tmp_path: Path) -> None:
    ended = mirrored(tmp_path, "tests.run.test_mirrors:writing")
    heard = json.loads((tmp_path / "heard.json").read_text())
    assert ended == Mirrored(
        name="tests.run.test_mirrors:writing", sent=len(heard), lost=0, failed=None
    )
    assert [message["what"] for message in heard].count("unit-done") == 9
    assert heard[-1]["progress"]["done"] == 9


def test_a_mirror_that_raises_does_not_stop_the_run_and_leaves_a_log(tmp_path: Path) -> None:
    ended = mirrored(tmp_path, "tests.run.test_mirrors:raising")
    assert ended.failed == "ended with exit code 1"
    assert "quota exceeded" in (tmp_path / "logs" / "mirror-raising.log").read_text()


def test_a_mirror_that_sleeps_does_not_slow_the_run_and_is_ended(tmp_path: Path) -> None:
    mirrors = Mirrors(tmp_path, ["tests.run.test_mirrors:sleeping"], room=10)
    long = Event(time=1.0, what="long", unit=None, detail={"text": "x" * 10_000})
    began = time.monotonic()
    for _ in range(1000):
        mirrors.tell(long, PROGRESS)
    assert time.monotonic() - began < 10, "telling does not wait"
    (ended,) = mirrors.close(seconds=0.2)
    assert time.monotonic() - began < 20
    assert ended.failed == "did not end in time"
    assert ended.lost > 900
    assert ended.sent + ended.lost in (999, 1000), "all but at most the one in the pipe"


def complaints_of(run: Path, *names: str) -> list[str]:
    """What is complained about after a tiny run with these mirrors, which must come out as ever."""
    told: list[str] = []
    with module.mirrored(run, names, told.append) as listen, open_run(run, "x") as directory:
        summary = execute(tiny_graph(), directory, InlineExecutor(), listen=listen)
    assert summary.progress.done == 9
    return told


def test_a_run_complains_at_its_end_about_a_mirror_that_raised_and_about_no_other(
    tmp_path: Path,
) -> None:
    names = ("tests.run.test_mirrors:raising", "tests.run.test_mirrors:writing")
    (complaint,) = complaints_of(tmp_path, *names)
    assert complaint.startswith("mirror tests.run.test_mirrors:raising: ended with exit code 1; ")
    assert (tmp_path / "heard.json").exists()


def test_a_run_complains_about_a_mirror_that_sleeps_and_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    (complaint,) = complaints_of(tmp_path, "tests.run.test_mirrors:sleeping")
    assert ": did not end in time; " in complaint


def test_a_run_without_mirrors_complains_about_nothing(tmp_path: Path) -> None:
    assert complaints_of(tmp_path) == []


def test_a_run_that_fails_still_ends_its_mirrors(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        pytest.raises(RuntimeError, match="the run"),
        module.mirrored(tmp_path, ["tests.run.test_mirrors:raising"], told.append),
    ):
        raise RuntimeError("the run")
    assert len(told) == 1


def test_tensorboard_can_read_what_was_mirrored(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    assert mirrored(tmp_path, "tensorboard").failed is None
    (path,) = (tmp_path / "mirrors" / "tensorboard").iterdir()
    values = [
        (value.tag, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    assert ("progress/done", 9.0) in values
    assert {tag for tag, _ in values} >= {"adapter/seconds", "cell/seconds", "progress/failed"}


def test_wandb_and_mlflow_are_called_as_their_manuals_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against stand-ins with the same signatures: neither service is called in a test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    monkeypatch.setenv("MLFLOW_FAKE", str(tmp_path / "mlflow.json"))
    assert mirrored(tmp_path / "a", "wandb").failed is None
    assert mirrored(tmp_path / "b", "mlflow").failed is None
    calls = json.loads((tmp_path / "a" / "mirrors" / "wandb.json").read_text())
    assert calls[0] == ["init", "steerproof", "a"]
    assert calls[-1][2]["progress/done"] == 9
    calls = json.loads((tmp_path / "mlflow.json").read_text())
    assert calls[:2] == [["experiment", "steerproof"], ["start", "b"]]
    assert calls[-1][2]["progress/done"] == 9


def test_a_mirror_that_is_not_installed_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "wandb.py").write_text("raise ImportError('no wandb here')")
    monkeypatch.syspath_prepend(str(broken))
    assert mirrored(tmp_path / "run", "wandb").failed == "ended with exit code 1"


def test_an_unknown_mirror_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="allowed are tensorboard, wandb, mlflow"):
        Mirrors(tmp_path, ["tensorbord"])


def test_the_numbers_of_an_event_are_tagged_by_kind() -> None:
    message = {"what": "unit-done", "unit": "cell/a", "detail": dict(EVENT.detail)}
    numbers = scalars({**message, "progress": {"done": 1}})
    assert numbers == {"progress/done": 1.0, "cell/seconds": 0.5}
