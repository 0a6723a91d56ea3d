"""At 80 columns nothing that a reader needs is cut, and no terminal's letters stop a command."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from steerproof import tables
from steerproof.cli import app
from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.run.commands.doctor import MachineCheck
from steerproof.run.commands.status import UnitFailure, status
from steerproof.run.driver.pace import Left
from steerproof.run.store.doing import Doing
from steerproof.spec.yaml_io import load_experiment
from tests.run.tiny import run_tiny, u

DATA = Path(__file__).parents[1] / "data"
LONG = (
    "a finding of many words, with_a_name_of_more_letters_than_any_column_of_a_table_has_room_for"
)


def commands(group: click.Group, *before: str) -> Iterator[list[str]]:
    yield list(before)
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, *before, name)
        elif name != "bench":  # hands its arguments on, --help too
            yield [*before, name]


@pytest.mark.parametrize("words", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_no_line_of_help_is_cut_or_wider_than_80_columns(words: list[str]) -> None:
    said = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}, terminal_width=80)
    lines = [line for line in said.output.splitlines() if not line.startswith("Usage:")]
    assert said.exit_code == 0
    assert len(lines) > 3
    assert not [line for line in lines if line.endswith("...") or len(line) > 80]


def shown(table: object, width: int = 80) -> str:
    """Without what draws it and where it breaks."""
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    text = captured.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    return re.sub(r"[\s\u2500-\u257f]+", "", text)


def holds(text: str, *parts: str) -> bool:
    return all(re.sub(r"\s", "", part) in text for part in parts)


@pytest.mark.parametrize("width", [80, 120])
def test_every_arm_of_an_analysis_is_whole(width: int) -> None:
    asked = load_experiment("published-267").experiment
    rates = read_rates(DATA / "issue267_rates.csv", asked)
    analysis, answers = conclude(rates, asked, arm="C")
    text = shown(tables.analysis_table(analysis, answers), width)
    for name, arm in analysis.arms.items():
        assert holds(text, name, *(kill for kill, seen in arm.kills.items() if seen.fired))
        for at in arm.strengths:
            assert at.rho is None or holds(text, f"{at.rho:+.3f}")
    assert holds(text, *answers.lines)
    assert holds(shown(tables.analysis_table(analysis), width), analysis.reason)


def test_a_status_with_failures_and_work_in_hand_is_whole(tmp_path: Path) -> None:
    run_tiny(tmp_path)
    failure = UnitFailure(unit=u("cell/x"), error=LONG, log="logs/attempt-000001.log", attempts=1)
    told = replace(
        status(tmp_path),
        failures=[failure],
        doing=[Doing(kind="adapter", units=3, done=1, total=2, what="steps", loss=0.25)],
        left=Left(seconds=75.0, untimed={"cell": 36}),
        problem=LONG,
    )
    assert holds(
        shown(tables.status_table(told)),
        LONG, "logs/attempt-000001.log", "training adapters: 1 of 2 steps, loss 0.250",
        "left: more than 1 min 15 s (36 cells not timed yet)",
    )  # fmt: skip


def test_a_check_with_a_long_remedy_is_whole() -> None:
    check = MachineCheck(name="rename and fsync", level="fail", value=LONG, remedy=f"do {LONG}")
    assert holds(shown(tables.doctor_table([check])), "rename and fsync", f"{LONG}\n  -> do {LONG}")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_a_terminal_has_not_are_named_and_json_stays_json(
    encoding: str, tmp_path: Path
) -> None:
    run = tmp_path / "snow \u2603"
    run.mkdir()
    (run / "experiment.yaml").write_text("{}")
    (run / "experiment.lock.json").write_text("{}")
    runner = CliRunner(charset=encoding)
    said = runner.invoke(app, ["status", str(run)])
    assert said.exit_code == 0, said.exception
    assert ("\u2603" if encoding == "utf-8" else "\\u2603") in said.stdout
    as_json = runner.invoke(app, ["status", str(run), "--json"])
    assert as_json.exit_code == 0, as_json.exception
    assert "\u2603" in json.loads(as_json.stdout)["problem"]
