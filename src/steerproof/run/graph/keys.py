"""What a unit's key is made of: everything that can change its files, and nothing else.

`key = sha256(canonical JSON of the recipe)`. The recipe holds

* `unit`      the unit's id, `kind/name`;
* `inputs`    the slice of the resolved experiment that the unit depends on, as given;
* `upstream`  the key of every unit that it reads, by id;
* `code`      sha256 over the source files of the stage and all that it imports (`sources`);
* `model`     sha256 of every file of the base model, by file name;
* `numerics`  what else changes numbers: library versions, dtype, kind of device.

Comments and layout of the experiment file, the run directory, the host, the executor and the number
of workers are not part of it. The manifest keeps the whole recipe, so two keys can be compared.
"""

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerproof.codec import digest
from steerproof.errors import ExperimentError
from steerproof.run.graph.ids import UnitId

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+@^~-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a unit's numbers depend on besides the experiment."""

    code: str
    """Version of the stage's source."""
    model: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the base model's files, by file name."""
    numerics: Mapping[str, str] = field(default_factory=dict)
    """Library versions, dtype and kind of device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecipe:
    """All that decides a unit's files."""

    unit: UnitId
    inputs: Mapping[str, Any]
    """The part of the resolved experiment that it depends on; plain JSON."""
    upstream: Mapping[UnitId, str]
    """Key of each unit that it reads."""
    code: str
    """As its `Environment` has it; so are the two below."""
    model: Mapping[str, str]
    numerics: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """The recipe as plain JSON, as hashed and as kept in the manifest."""
        return {
            "unit": str(self.unit),
            "inputs": dict(self.inputs),
            "upstream": {str(read): key for read, key in self.upstream.items()},
            "code": self.code,
            "model": dict(self.model),
            "numerics": dict(self.numerics),
        }

    def key(self) -> str:
        """sha256 of the canonical JSON of the recipe: 64 hex digits."""
        return digest(self.record())


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_version(modules: Sequence[str]) -> str:
    """sha256 over the source files of the named modules, without importing them.

    Args:
        modules: Dotted names; a package stands for all `.py` files below it.

    Raises:
        ValueError: A module cannot be found or has no source file.
    """
    hashes: dict[str, str] = {}
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"module {module!r} has no source file")
        origin = Path(spec.origin)
        if spec.submodule_search_locations is None:
            hashes[module] = file_sha256(origin)
            continue
        for source in sorted(origin.parent.rglob("*.py")):
            hashes[f"{module}/{source.relative_to(origin.parent).as_posix()}"] = file_sha256(source)
    return digest(hashes)


def check_name(name: str, what: str) -> str:
    """Return a kind or unit name that is safe as a directory name.

    Raises:
        ExperimentError: It holds another character, starts with a sign, or is too long.
    """
    if _NAME.fullmatch(name) is None:
        raise ExperimentError(
            f"{what} {name!r} cannot name a directory: allowed are 1 to 200 of A-Z a-z 0-9 . _ = + "
            "@ ^ ~ and -, starting with a letter or digit"
        )
    return name


_LONGEST_NAME = 200


def directory_name(unit: UnitId, key: str) -> str:
    """`kind/name-<first 16 hex of the key>`: where a unit lies below `units/`.

    Of a name that no file system would take, the head; the key tells it from others.
    """
    return f"{unit.kind}/{unit.name[:_LONGEST_NAME]}-{key[:16]}"
