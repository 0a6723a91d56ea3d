"""Experiment files: from a path or a shipped name to a checked record.

Everything that is wrong is said at once, each as `file:line:column: key: what, and what instead`.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import steerproof
from steerproof.errors import ExperimentError
from steerproof.spec import checks
from steerproof.spec.experiment import Experiment
from steerproof.spec.problems import Problem, did_you_mean, shown, spelt
from steerproof.spec.records import read_records
from steerproof.spec.yaml_tree import MAX_BYTES, Position, Tree, UnreadableError, read_tree

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An experiment and the file that it was read from."""

    experiment: Experiment
    text: str
    """The file as written, comments and all."""
    path: Path
    """The file."""
    directory: Path
    """Where the file's relative paths begin."""


def load_experiment(source: str | Path) -> Loaded:
    """Read and check an experiment.

    Args:
        source: A path, or the name of a shipped experiment (`zlt`).

    Raises:
        ExperimentError: There is no such file, it cannot be read, or what it says cannot be done;
            the message lists every problem with its line and column.
    """
    path = find_experiment(source)
    text = _read_text(path)
    experiment = parse_experiment(text, str(path))
    return Loaded(experiment=experiment, text=text, path=path, directory=path.resolve().parent)


def parse_experiment(text: str, name: str = "experiment.yaml") -> Experiment:
    """Read and check the text of an experiment file; `name` is how problems call the file.

    Raises:
        ExperimentError: As `load_experiment`.
    """
    try:
        tree = read_tree(text)
    except UnreadableError as error:
        where = error.position
        raise ExperimentError(f"{name}:{where.line}:{where.column}: {error.message}") from None
    draft = read_records(tree.data)
    clashes = checks.problems(draft.experiment, draft.sections)
    refused = {at for at, _ in tree.complaints}
    problems = {(tree.position(p), f"{spelt(p.keys)}: {p.message}") for p in draft.problems}
    problems |= {(tree.position(p), f"{_named(p, tree)}: {p.message}") for p in clashes}
    # What stands where a value was refused already is about a stand-in for that value.
    placed = {item for item in problems if item[0] not in refused} | set(tree.complaints)
    if placed:
        raise ExperimentError(_listed(placed, name))
    return draft.experiment


def _named(clash: Problem, tree: Tree) -> str:
    """The place of a clash; a value that the file does not hold is there by default."""
    written = clash.keys in tree.values
    return spelt(clash.keys) + ("" if written else " (by default)")


def shipped() -> dict[str, Path]:
    """Experiments that come with steerproof, by name; files that begin with `_` are parts."""
    package = Path(steerproof.__file__).parent
    # Installed, they lie inside the package; in a checkout, beside `src`.
    places = (package / "experiments", package.parent.parent / "experiments")
    paths: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.rglob("*")):
            if path.suffix in SUFFIXES and not path.name.startswith("_"):
                paths.setdefault(path.stem, path)
    return paths


def find_experiment(source: str | Path) -> Path:
    """The file that a path or a shipped name means.

    Raises:
        ExperimentError: There is none; with the names that exist.
    """
    path = Path(source)
    if path.is_file():
        return path
    known = shipped()
    if str(source) in known:
        return known[str(source)]
    if path.name == str(source) and path.suffix not in SUFFIXES:
        names = ", ".join(sorted(known)) or "none"
        hint = did_you_mean(path.name, known)
        raise ExperimentError(f"no experiment {shown(path.name)}; shipped: {names}{hint}")
    if path.is_dir():
        raise ExperimentError(f"{path} is a directory; {_in_place_of(path)}")
    if path.exists():
        raise ExperimentError(f"{path} is a pipe or a device, which is not read; give a file")
    beside = (p for p in path.parent.iterdir() if p.is_file()) if path.parent.is_dir() else ()
    hint = did_you_mean(path.name, (p.name for p in beside if p.suffix in SUFFIXES))
    raise ExperimentError(f"no experiment file {path}{hint}")


def _in_place_of(directory: Path) -> str:
    """What to give in place of a directory: an experiment in it, if there is one."""
    inside: list[str] = []
    with suppress(PermissionError):
        inside = sorted(p.name for p in directory.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if inside:
        return f"give the experiment file in it: {', '.join(inside[:5])}"
    return (
        "no experiment file is in it. If it was a run directory, whose experiment.yaml is lost,"
        f" give the experiment's own file, and --dir {directory}"
    )


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ExperimentError(f"{path} has {size} bytes; allowed: {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", errors="ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        what = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ExperimentError(f"{path}:{line}:{column}: {what}") from None


def _listed(placed: set[tuple[Position, str]], name: str) -> str:
    """One line per problem, in the order of the file."""
    ordered = sorted(placed, key=lambda item: (item[0].line, item[0].column, item[1]))
    return "\n".join(f"{name}:{at.line}:{at.column}: {text}" for at, text in ordered)
