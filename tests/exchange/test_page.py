"""The commands and the Python of docs/exchange.md do what the page says."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import steerproof as sp
from steerproof.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "exchange.md").read_text("utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with somebody's persona vector, in which one works."""
    table = torch.randn(7, 128, generator=torch.Generator().manual_seed(2))
    torch.save(table, tmp_path / "evil_response_avg_diff.pt")  # noqa: TID251 - as the field does
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_runs_in_its_order(place):
    assert len(COMMANDS) == 7
    for line in COMMANDS:
        name, *arguments = shlex.split(line)
        assert name == "steerproof"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (line, done.output, done.exception)
    written = {path.name for path in place.iterdir()}
    assert {"evil.safetensors", "villain.gguf", "villain.pt", "villain.json"} <= written
    assert {"easysteer.json", "easysteer.gguf"} <= written


def test_directions_are_read_by_name_and_block_and_take_ratios_from_a_geometry(place):
    base = sp.load("organism")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "read_" in b]
    names = {"sp": sp, "base": base}
    exec(compile(block, "docs/exchange.md", "exec"), names)
    assert names["push"].layer == 3
    zlt = sp.load_experiment("zlt").experiment
    personas = {p.name: p.prompt for p in zlt.personas[:3]}
    geometry = sp.directions(
        base, personas, zlt.questions.evaluation[:2], neutral=zlt.neutral_prompt, layers=[3]
    )
    found = sp.read_directions("evil_response_avg_diff.pt", base, geometry=geometry)
    assert set(found["evil"]) == set(range(6))
    push = found["evil"][3].push(ratio=0.2)
    assert float(push.vector.norm()) == pytest.approx(0.2 * geometry[3].h_bar, rel=1e-5)
    assert "h_bar" in found["evil"][2].provenance.unknown()
