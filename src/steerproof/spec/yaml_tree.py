"""YAML 1.2 text to plain values, each with the line and column that it stands on.

Safe by construction: the text is composed into nodes and the plain values are built here, so no
tag can run code. Size, nesting, aliases and the number of values are bounded before anything
grows. All duplicate keys are found, not only the first.
"""

import math
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.events import DocumentStartEvent as DocumentStart
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from steerproof.spec.problems import Keys, Problem, shown, spelt

MAX_BYTES = 4 * 2**20
"""Longest experiment file, in bytes."""
MAX_DEPTH = 20
"""Deepest nesting of lists and mappings."""
MAX_ALIASES = 1_000
"""Most uses of YAML aliases (`*name`)."""
MAX_VALUES = 100_000
"""Most values after aliases are expanded."""

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + kind for kind in ("str", "timestamp", "merge", "value")}
_NUMBER_TAGS = {_TAG + kind for kind in ("int", "float", "bool", "null")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where something stands in the text, both counted from 1."""

    line: int
    column: int


class UnreadableError(Exception):
    """The text is no YAML document that can be used; says where reading stopped."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Plain values of one document, with positions."""

    data: object
    values: dict[Keys, Position] = field(default_factory=dict)
    """Where each value begins."""
    keys: dict[Keys, Position] = field(default_factory=dict)
    """Where the key of each value in a mapping begins."""
    problems: list[Problem] = field(default_factory=list)
    """Duplicate keys, keys that are no text, foreign tags, numbers that are not finite."""

    def position(self, problem: Problem) -> Position:
        """Where to point for a problem: its place, or the nearest parent that is written."""
        if problem.on_key and problem.keys in self.keys:
            return self.keys[problem.keys]
        keys = problem.keys
        while keys not in self.values and keys:
            keys = keys[:-1]
        if keys != problem.keys and keys in self.keys:
            return self.keys[keys]  # something is absent: the key of its parent reads better
        return self.values.get(keys, Position(line=1, column=1))


def read_tree(text: str) -> Tree:
    """Read one YAML 1.2 document.

    Raises:
        UnreadableError: syntax errors, more than one document, or a limit is exceeded.
    """
    try:
        _bound(text)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Position(line=mark.line + 1, column=mark.column + 1) if mark else Position(line=1, column=1)
        raise UnreadableError(where, str(error.problem or error.context)) from None
    except ReaderError as error:
        before = text[: error.position]
        where = Position(line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
        raise UnreadableError(where, f"character U+{error.character:04X} is not allowed") from None
    if root is None:
        raise UnreadableError(Position(line=1, column=1), "the file is empty")
    building = Tree(data=None)
    data = _Builder(tree=building).build(root, (), 0)
    return Tree(data=data, values=building.values, keys=building.keys, problems=building.problems)
