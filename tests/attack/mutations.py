"""Mutations of what people and machines write: bytes, JSON values, lines.

Everything is drawn from one seeded source, so that a failure can be had again from its number.
"""

import json
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 1e-320, 10**20, -(10**30), 10**400),
    *(float("nan"), float("inf"), "", " ", "x", "none", "c=+2", "../..", "a\x00b", "\ud800"),
    *("ſ", "🏴‍☠️", "<b>", "{{ x }}", "=1+1", "x" * 300, "x" * 70_000, [], [[]], [None], {}),
    *({"": {}}, {"a": None}, [1, "a", None], "\u202egnirts", "nan", "1e999", "-", "*a", "&a"),
)
"""What a value may be replaced by."""
NASTY = (
    *(b"", b"[]", b"{}", b"null", b"5", b'"x"', b"[" * 100_000, b"\xff\xfe", b"\x00" * 64),
    *(b'{"a":' + b"9" * 5000 + b"}", b'{"a": "\\ud800"}', b'{"a": NaN}', b"\xef\xbb\xbf{}"),
    *(b"PAR1PAR1", b"SQLite format 3\x00", b"a: &a [*a]\n", b"{" * 50_000),
)
"""What a file may be replaced by."""


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to three small changes of a file, or another one in its place."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(content) + 1)
        content = chance.choice(_BYTES)(content, at, chance)
    return bytes(content)


def _flip(content: bytearray, at: int, chance: random.Random) -> bytearray:
    if content:
        content[at % len(content)] ^= 1 << chance.randrange(8)
    return content


def _cut(content: bytearray, at: int, chance: random.Random) -> bytearray:
    return content[:at]


def _drop(content: bytearray, at: int, chance: random.Random) -> bytearray:
    del content[at : at + chance.randrange(1, 40)]
    return content


def _insert(content: bytearray, at: int, chance: random.Random) -> bytearray:
    content[at:at] = chance.randbytes(chance.randrange(1, 9))
    return content


def _repeat(content: bytearray, at: int, chance: random.Random) -> bytearray:
    content[at:at] = content[at : at + chance.randrange(1, 200)] * chance.choice((1, 2, 50))
    return content


def _replace(content: bytearray, at: int, chance: random.Random) -> bytearray:
    return bytearray(chance.choice(NASTY)) if chance.random() < 0.3 else content


_BYTES: tuple[Callable[[bytearray, int, random.Random], bytearray], ...] = (
    _flip, _flip, _cut, _drop, _insert, _repeat, _replace,
)  # fmt: skip


def mutated_json(value: Any, chance: random.Random) -> Any:
    """A copy of a JSON value with one to three of its parts replaced, lost, doubled or moved."""
    whole = {"": json.loads(json.dumps(value))}
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(whole))
        parent, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del parent[key]
                if not whole:
                    return None
            case 1 if isinstance(parent, list):
                parent.insert(key, parent[key])
            case 2 if isinstance(parent, dict) and parent is not whole:
                parent[str(chance.choice(VALUES))[:50]] = parent.pop(key)
            case 3:
                other, at = chance.choice(places)
                parent[key] = json.loads(json.dumps(other[at])) if at in _keys(other) else None
            case _:
                # A copy: the next change may be made in it, and would be there ever after.
                parent[key] = deepcopy(chance.choice(VALUES))
        if not list(_places(whole)):
            return None
    return whole[""]


def _keys(parent: Any) -> Any:
    return parent if isinstance(parent, dict) else range(len(parent))


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def mutated_lines(text: str, chance: random.Random) -> str:
    """A table with a line or a field of it changed, lost, doubled or exchanged."""
    lines = text.splitlines(keepends=True) or [""]
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(lines))
        fields = lines[at].rstrip("\n").split(",")
        field = chance.randrange(len(fields))
        match chance.randrange(7):
            case 0:
                del lines[at]
                lines = lines or [""]
            case 1:
                lines.insert(at, lines[at])
            case 2:
                other = chance.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                del fields[field]
                lines[at] = ",".join(fields) + "\n"
            case _:
                fields[field] = chance.choice((str(chance.choice(VALUES)), '"', '"x', ";", "\r"))
                lines[at] = ",".join(fields) + "\n"
    return "".join(lines)
