"""What a person who installs the package gets, and is told."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import steerproof
from steerproof.errors import MachineError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().split()
    return {canonicalize_name(name): pin for name, _, pin in (one.partition("==") for one in lines)}


def test_the_lock_pins_a_version_that_every_requirement_allows():
    pins = lock()
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(one for extra in extras.values() for one in extra)]
    for requirement in map(Requirement, asked):
        if requirement.name == "steerproof":
            assert requirement.extras <= set(extras)
        else:
            pin = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin), requirement


def test_types_and_licence_go_with_the_package():
    assert (Path(steerproof.__file__).parent / "py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"


@pytest.mark.parametrize("library", ["uvicorn", "starlette"])
def test_without_the_boards_libraries_the_command_says_what_installs_them(library):
    code = f"import sys; sys.modules['{library}'] = None; from steerproof.cli import main; main()"
    command = [sys.executable, "-c", code, "board", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == MachineError.exit_code
    assert f"{library} is not installed" in done.stderr
    assert "pip install 'steerproof[board]'" in done.stderr
