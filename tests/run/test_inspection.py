from dataclasses import replace
from pathlib import Path

import pytest

from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.commands.explain import UnitChange, explain, find_unit, told_changes
from steerproof.run.commands.status import status
from steerproof.run.commands.verify import raise_mismatches, verify
from steerproof.run.graph.graph import build_graph
from steerproof.run.graph.keys import Environment
from steerproof.run.store.directory import open_run
from steerproof.run.store.store import publish, unit_directory
from steerproof.spec.changes import Change
from tests.run.forks import Forks
from tests.run.tiny import ENVIRONMENT, run_tiny, tiny_graph, u, unit


def test_a_finished_run_says_so_with_its_totals(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    run_tiny(tmp_path)
    found = status(tmp_path)
    assert found.state == "finished"
    assert found.units["cell"] == {"done": 4}
    assert found.totals.attempts == 9
    assert [event.what for event in found.events][-1] == "run-ended"


def test_a_killed_run_is_interrupted_and_never_running(forks: Forks, tmp_path: Path) -> None:
    fault = {"STEERPROOF_FAULT": "temp.after/cell:KILL"}
    assert forks.run(tmp_path, environment=fault).code == -9
    found = status(tmp_path)
    assert found.state == "interrupted"
    assert found.units["cell"] == {"interrupted": 4}
    assert not any("running" in states for states in found.units.values())


def test_a_run_in_hand_is_running_and_names_its_process(tmp_path: Path) -> None:
    with open_run(tmp_path, "steerproof run here") as directory:
        directory.ledger.register({u("cell/a"): "0" * 64}, [])
        directory.ledger.start({u("cell/a"): "0" * 64}, "here")
        found = status(tmp_path)
    assert found.state == "running"
    assert found.units == {"cell": {"running": 1}}
    assert found.lock.holder is not None
    assert found.lock.holder.command == "steerproof run here"


def test_the_status_of_nothing_is_an_error_and_of_an_empty_directory_is_empty(
    tmp_path: Path,
) -> None:
    with pytest.raises(ExperimentError, match="no such directory"):
        status(tmp_path / "nowhere")
    assert status(tmp_path).state == "empty"


def test_a_failed_unit_is_named_with_its_log(tmp_path: Path) -> None:
    graph = build_graph([unit("cell", "a", work="tests.run.works:refuses")])
    run_tiny(tmp_path, graph)
    found = status(tmp_path)
    assert found.state == "failed"
    (failure,) = found.failures
    assert (failure.unit, failure.error) == (u("cell/a"), "ValueError: the loss is NaN")
    assert failure.log is not None
    assert "Traceback" in (tmp_path / failure.log).read_text()
    reason = explain(tmp_path, graph, u("cell/a")).reason
    assert "ValueError: the loss is NaN" in reason


def test_explain_names_the_input_that_changed_with_old_and_new_value(tmp_path: Path) -> None:
    run_tiny(tmp_path, tiny_graph(strength=2.0))
    edited = tiny_graph(strength=3.0)
    direct = explain(tmp_path, edited, u("adapter/A.villain"))
    assert not direct.reused
    expected = UnitChange(
        unit=u("adapter/A.villain"),
        change=Change(field="inputs.strength", old=2.0, new=3.0, matters=True),
    )
    assert direct.changes == (expected,)
    assert explain(tmp_path, edited, u("cell/A.villain.none")).changes == (expected,)
    assert explain(tmp_path, edited, u("cell/C.villain.none")).reused


def test_changes_of_many_units_are_told_in_a_line_with_short_hashes(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    other = replace(ENVIRONMENT, code="b" * 64, numerics={})
    lines = told_changes(
        explain(tmp_path, tiny_graph(environment=other), u("analysis/all")).changes
    )
    named = "analysis/all, cell/C.villain.none, directions/all and 6 more"
    assert lines == [
        f"code was 'tiny-1' and is bbbbbbbbbbbb...: {named}",
        f"numerics.dtype was 'float32' and is not there: {named}",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"push": "too small to verify here"},
            "is too small to verify here: no more than rounding",
        ),
        ({"push": "verified"}, "when it was made"),
        ({"push": "none"}, "when it was made"),
        (None, "cell.json"),
    ],
)
def test_explain_tells_of_a_push_that_could_not_be_verified(
    content: dict[str, str] | None, said: str, tmp_path: Path
) -> None:
    graph = build_graph(
        [unit("cell", "x", inputs={"canary": content}, work="tests.run.works:measures")]
    )
    run_tiny(tmp_path, graph)
    told = explain(tmp_path, graph, u("cell/x"))
    assert told.reused
    assert said in told.reason
    assert ("rounding" in told.reason) == (content == {"push": "too small to verify here"})


def test_explain_still_names_the_change_when_the_upstream_unit_was_already_redone(
    tmp_path: Path,
) -> None:
    run_tiny(tmp_path, tiny_graph(strength=2.0))
    edited = tiny_graph(strength=3.0)
    half = build_graph(list(edited.units.values())[:4])
    run_tiny(tmp_path, half)
    changes = explain(tmp_path, edited, u("cell/A.villain.none")).changes
    assert [(found.change.field, found.change.old, found.change.new) for found in changes] == [
        ("inputs.strength", 2.0, 3.0)
    ]


@pytest.mark.parametrize(
    ("environment", "field"),
    [
        (
            Environment(code="tiny-2", model={"weights": "aa"}, numerics={"dtype": "float32"}),
            "code",
        ),
        (
            Environment(code="tiny-1", model={"weights": "bb"}, numerics={"dtype": "float32"}),
            "model.weights",
        ),
        (
            Environment(code="tiny-1", model={"weights": "aa"}, numerics={"dtype": "bfloat16"}),
            "numerics.dtype",
        ),
    ],
)
def test_explain_names_a_changed_code_model_or_dtype(
    environment: Environment, field: str, tmp_path: Path
) -> None:
    run_tiny(tmp_path)
    changed = explain(tmp_path, tiny_graph(environment=environment), u("directions/all"))
    assert [found.change.field for found in changed.changes] == [field]


def test_explain_of_a_unit_that_was_never_made_and_of_one_that_does_not_exist(
    tmp_path: Path,
) -> None:
    assert explain(tmp_path, tiny_graph(), u("cell/A.villain.none")).reason == "it was never made"
    with pytest.raises(ExperimentError, match=r"did you mean cell/A\.villain\.none"):
        find_unit(tiny_graph(), "cell/A.vilain.none")


def test_explain_of_a_damaged_unit_and_of_its_reader(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    graph = tiny_graph()
    place = unit_directory(tmp_path, u("adapter/A.villain"), graph.keys[u("adapter/A.villain")])
    (place / "result.json").write_bytes(b"{}")
    assert explain(tmp_path, graph, u("adapter/A.villain")).damage[0].path == place / "result.json"
    reader = explain(tmp_path, graph, u("cell/A.villain.none"))
    assert not reader.reused
    assert "adapter/A.villain" in reader.reason


def test_verify_finds_nothing_in_a_sound_run_and_names_a_unit_that_is_gone(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    assert verify(tmp_path) == []
    gone = unit_directory(
        tmp_path, u("cell/C.villain.none"), tiny_graph().keys[u("cell/C.villain.none")]
    )
    gone.rename(tmp_path / "elsewhere")
    (mismatch,) = verify(tmp_path)
    assert (mismatch.path, mismatch.problem) == (gone, "missing")
    with pytest.raises(IntegrityError, match="steerproof run tiny") as caught:
        raise_mismatches([mismatch], "steerproof run tiny")
    assert caught.value.exit_code == 7
    assert str(gone) in str(caught.value)


def test_verify_covers_the_published_results(tmp_path: Path) -> None:
    publish(tmp_path, {"rates.csv": b"arm\n", "figures/a.svg": b"<svg/>"})
    assert verify(tmp_path) == []
    (tmp_path / "results" / "rates.csv").write_bytes(b"arm,\n")
    (tmp_path / "results" / "figures" / "a.svg").unlink()
    assert {mismatch.problem for mismatch in verify(tmp_path)} == {"sha256", "missing"}
