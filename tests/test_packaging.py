"""What a person who installs the package gets, and is told."""

import ast
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import steerproof
from steerproof.errors import MachineError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


COMPANIONS = {"pydantic_core": "pydantic", "markupsafe": "jinja2", "anyio": "starlette"}
COMPANIONS |= {"h11": "uvicorn", "triton": "torch"}
"""What we import without asking for it: it comes with what we ask for, by that one's contract."""
SLIM_MB = 400


def needed(*extras: str) -> set[str]:
    """Names of what an installer adds for the plain package and these extras, however deep."""
    found: set[str] = set()
    todo = list(PROJECT["dependencies"])
    todo += [one for extra in extras for one in PROJECT["optional-dependencies"][extra]]
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        asked = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if asked and name not in found:
            found.add(name)
            todo += distribution(name).requires or []
    return found


def megabytes(name: str) -> float:
    """On disk, each source file with its compiled one, which is about as large."""
    files = distribution(name).files or []
    return sum((file.size or 0) * (1 + (file.suffix == ".py")) for file in files) / 2**20


@pytest.mark.parametrize("extras", [(), ("board",)])
def test_the_plain_package_is_light(extras):
    sizes = {name: megabytes(name) for name in needed(*extras)}
    assert {"numpy", "pyarrow", "matplotlib"} < set(sizes)
    assert min(sizes["numpy"], sizes["pyarrow"]) > 10
    own = sum(path.stat().st_size for path in Path(steerproof.__file__).parent.rglob("*.*"))
    assert sum(sizes.values()) + own / 2**20 < SLIM_MB, sorted(sizes.items(), key=lambda kv: -kv[1])


def test_whatever_is_imported_is_asked_for():
    extras = PROJECT["optional-dependencies"].values()
    asked = {Requirement(one).name for one in PROJECT["dependencies"]}
    asked |= {Requirement(one).name for extra in extras for one in extra}
    asked = {canonicalize_name(name) for name in asked}
    providers = packages_distributions()
    for path in sorted((ROOT / "src").rglob("*.py")):
        for top in outside(path.read_text("utf-8")):
            names = {canonicalize_name(name) for name in providers.get(top, [top])}
            assert names & asked or COMPANIONS.get(top) in asked, f"{path}: {top}"


def outside(source: str) -> set[str]:
    """Top-level names of other people's packages that a source file imports, anywhere in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    tops = {module.partition(".")[0] for module in modules}
    return tops - sys.stdlib_module_names - {"steerproof", ""}


ALONE = """
import sys
class Alone:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        known = path or name in allowed or name.startswith("_sysconfigdata")
        return self.finder.find_spec(name, path, target) if known else None
sys.meta_path[:] = map(Alone, sys.meta_path)
"""


def alone() -> str:
    """Code after which nothing imports but what the plain package brings."""
    providers = packages_distributions()
    slim = needed()
    ours = {top for top, names in providers.items() if {canonicalize_name(n) for n in names} & slim}
    allowed = ours | {"steerproof"} | set(sys.stdlib_module_names)
    return f"allowed = frozenset({sorted(allowed)!r})\n{ALONE}"


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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel, unpacked outside of the checkout as an installer would."""
    place = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def run(installed, *arguments, without=(), before=""):
    """The command of the installed package, away from the checkout."""
    code = [f"import sys; sys.modules[{name!r}] = None" for name in without]
    code.insert(0, f"exec({before!r})")
    code.append("from steerproof.cli import main; main()")
    return subprocess.run(
        [sys.executable, "-c", "; ".join(code), *arguments],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wheel_holds_the_package_and_what_ships_with_it_alone(installed):
    assert {path.name for path in installed.iterdir()} == {
        "steerproof",
        f"steerproof-{steerproof.__version__}.dist-info",
    }
    package = installed / "steerproof"
    assert (package / "py.typed").is_file()
    assert (package / "organism" / "weights" / "model.safetensors").is_file()
    assert (package / "experiments" / "zlt.yaml").is_file()
    (licence,) = installed.glob("*.dist-info/licenses/LICENSE")
    assert "Apache License" in licence.read_text()


def test_what_is_installed_works_away_from_the_checkout(installed):
    assert run(installed, "--version").stdout == f"steerproof {steerproof.__version__}\n"
    told = json.loads(run(installed, "plan", "zlt", "--no-trial", "--json", before=alone()).stdout)
    assert told["counts"]["adapters"] == 52
    shown = json.loads(
        run(installed, "directions", "extract", "zlt", "--out", "d.safetensors", "--json").stdout
    )
    assert len(shown) == 24


def test_the_benchmarks_are_not_installed_and_the_command_says_how_to_get_them(installed):
    done = run(installed, "bench", "statistics")
    assert done.returncode == 2
    assert "get the source tree" in done.stderr


def test_without_the_locks_of_posix_a_run_is_refused_plainly_and_the_rest_works(installed):
    done = run(installed, "run", "zlt", without=["fcntl"])
    assert done.returncode == MachineError.exit_code
    assert "on Windows, use WSL" in done.stderr
    done = run(installed, "power", "zlt", "--simulations", "20", "--json", without=["fcntl"])
    assert done.returncode == 0, done.stderr


def test_the_version_stands_in_one_place():
    written = f'__version__ = "{steerproof.__version__}"'
    assert written in (ROOT / "src" / "steerproof" / "__init__.py").read_text()
    assert "version" in PROJECT["dynamic"]
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")


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
