"""`steerproof analyze`, as it is typed."""

import json
from pathlib import Path

from typer.testing import CliRunner

from steerproof.cli import app

TABLE = Path(__file__).parent / "data" / "issue267_rates.csv"


def run(*options: str) -> str:
    result = CliRunner().invoke(
        app, ["analyze", str(TABLE), "published-267", "--arm", "C", *options]
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_registered_gives_the_registered_analysis_alone() -> None:
    said = json.loads(run("--registered", "--json"))
    assert "answers" not in said
    assert said["verdict"] == "REFUTED"


def test_otherwise_the_registered_numbers_are_the_same_and_the_answers_beside_them() -> None:
    alone, whole = (json.loads(run(*more, "--json")) for more in (("--registered",), ()))
    answers = whole.pop("answers")
    assert {**whole, "reading": ""} == {**alone, "reading": ""}
    assert answers["lines"][0].startswith("As registered: REFUTED (sign_inverted")
    assert answers["ranking"]["answer"] == "CANNOT ANSWER"
    assert len(answers["lines"]) == 3


def test_on_a_terminal_the_three_lines_come_first() -> None:
    assert run().strip().startswith("As registered: REFUTED")
