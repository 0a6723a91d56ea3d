"""YAML 1.2 text to plain values, each with the line and column that it stands on.

Safe by construction: the text is composed into nodes and the plain values are built here, so no
tag can run code. Size, nesting, aliases and the number of values are bounded before anything
grows. All duplicate keys are found, not only the first.
"""

import math
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.constructor import BaseConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from steerproof.spec.problems import Keys, Problem, shown, spelt

MAX_BYTES = 4 * 2**20
"""Longest experiment file, in bytes."""
MAX_DEPTH = 20
"""Deepest nesting of lists and mappings."""
MAX_ALIASES = 1_000
"""Most uses of YAML aliases (`*name`)."""
MAX_VALUES = 30_000
"""Most values after aliases are expanded."""

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + kind for kind in ("str", "timestamp", "merge", "value")}
_NUMBER_TAGS = {_TAG + kind for kind in ("int", "float", "bool", "null")}
_TAGS = _TEXT_TAGS | _NUMBER_TAGS | {_TAG + "map", _TAG + "seq"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where something stands in the text, both counted from 1."""

    line: int
    column: int


_START = Position(line=1, column=1)


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
    """Dictionaries, lists, text, numbers, booleans and None."""
    values: dict[Keys, Position]
    """Where each value begins."""
    keys: dict[Keys, Position]
    """Where the key of each value in a mapping begins."""
    complaints: tuple[tuple[Position, str], ...]
    """Duplicate keys, keys that are no text, foreign tags, numbers that are not finite."""

    def position(self, problem: Problem) -> Position:
        """Where to point for a problem: its place, or the nearest parent that is written."""
        keys = problem.keys
        if problem.on_key and keys in self.keys:
            return self.keys[keys]
        while keys and keys not in self.values:
            keys = keys[:-1]
        if keys != problem.keys and keys in self.keys:
            return self.keys[keys]  # something is absent: the key of its parent reads better
        return self.values.get(keys, _START)


def read_tree(text: str) -> Tree:
    """Read one YAML 1.2 document.

    Raises:
        UnreadableError: Syntax errors, more than one document, or a limit is exceeded.
    """
    try:
        _bound(text)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Position(line=mark.line + 1, column=mark.column + 1) if mark else _START
        raise UnreadableError(where, str(error.problem or error.context)) from None
    except ReaderError as error:
        before = text[: error.position]
        where = Position(line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
        raise UnreadableError(where, f"character U+{error.character:04X} is not allowed") from None
    if root is None:
        raise UnreadableError(_START, "the file is empty")
    building = _Building()
    data = _build(root, (), building)
    return Tree(
        data=data,
        values=building.values,
        keys=building.keys,
        complaints=tuple(building.complaints),
    )


@dataclass(slots=True)
class _Building:
    values: dict[Keys, Position] = field(default_factory=dict)
    keys: dict[Keys, Position] = field(default_factory=dict)
    complaints: list[tuple[Position, str]] = field(default_factory=list)
    constructor: BaseConstructor = field(
        default_factory=lambda: YAML(typ="safe", pure=True).constructor
    )


def _bound(text: str) -> None:
    """Scan the events, which needs no recursion, before nodes are built from them."""
    depth = aliases = documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise UnreadableError(_begin(event), "a second document starts; allowed: one")
            if event.version not in (None, (1, 2)):
                raise UnreadableError(_begin(event), "YAML version must be 1.2")
        elif isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise UnreadableError(_begin(event), f"nested deeper than {MAX_DEPTH}")
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        elif isinstance(event, AliasEvent):
            aliases += 1
            if aliases > MAX_ALIASES:
                raise UnreadableError(_begin(event), f"more than {MAX_ALIASES} aliases")


def _build(node: Node, keys: Keys, building: _Building) -> object:
    building.values[keys] = _begin(node)
    if len(building.values) > MAX_VALUES:
        raise UnreadableError(_begin(node), f"more than {MAX_VALUES} values")
    if len(keys) > MAX_DEPTH:  # an alias inside its own anchor
        raise UnreadableError(_begin(node), f"nested deeper than {MAX_DEPTH}")
    if str(node.tag) not in _TAGS:
        message = f"tag {str(node.tag).replace(_TAG, '!!')} is not allowed; write a plain value"
        building.complaints.append((_begin(node), message))
    if isinstance(node, MappingNode):
        return _mapping(node, keys, building)
    if isinstance(node, SequenceNode):
        return [_build(item, (*keys, i), building) for i, item in enumerate(node.value)]
    return _scalar(node, building)


def _mapping(node: MappingNode, keys: Keys, building: _Building) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        place = (*keys, key)
        if not isinstance(key_node, ScalarNode):
            message = "a key must be text, not a list or a mapping"
            building.complaints.append((_begin(key_node), message))
        elif key in mapping:
            first = building.keys[place].line
            message = f"key '{spelt(place)}' is written twice; first in line {first}"
            building.complaints.append((_begin(key_node), message))
        else:
            building.keys[place] = _begin(key_node)
            mapping[key] = _build(value_node, place, building)
    return mapping


def _scalar(node: Node, building: _Building) -> object:
    tag = str(node.tag)
    if tag not in _NUMBER_TAGS:
        return node.value
    try:
        value = building.constructor.construct_object(node)
    except (ValueError, KeyError, MarkedYAMLError):  # such as `!!int x`
        message = f"{shown(node.value)} is no {tag.removeprefix(_TAG)}"
        building.complaints.append((_begin(node), message))
        return node.value
    if isinstance(value, float) and not math.isfinite(value):
        message = f"{node.value} is not a finite number"
        building.complaints.append((_begin(node), message))
        return 0.0
    return value


def _begin(thing: Node | Event) -> Position:
    mark = thing.start_mark
    return Position(line=mark.line + 1, column=mark.column + 1)
