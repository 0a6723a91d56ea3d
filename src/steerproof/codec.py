"""Records as JSON and back: one way to write, one way to read, one canonical form and its hash.

A record is a frozen dataclass. It is written field by field in its own order, and read with its
types checked, so that whoever reads a file has the record that was written and no loose values.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

from pydantic import ConfigDict, RootModel, ValidationError

from steerproof.errors import IntegrityError

R = TypeVar("R")


@runtime_checkable
class _Recorded(Protocol):
    """A record whose JSON is not simply its fields."""

    def record(self) -> Any: ...


def plain(value: Any) -> Any:
    """Records, mappings, paths and tuples as JSON values.

    Raises:
        ValueError: A number is not finite; an undefined one must be None by now.
    """
    if value is None or type(value) in (str, int, bool):  # most of all: told apart at once
        return value
    if isinstance(value, _Recorded):
        return plain(value.record())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not JSON; an undefined number must be None with a reason")
    return str(value) if isinstance(value, Path) else value


def json_bytes(value: Any) -> bytes:
    """The bytes of a JSON file: a record's fields in their order, indented, no NaN."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, UTF-8: the same bytes for the same values.

    Raises:
        ValueError: The value holds a NaN or an infinity.
        TypeError: The value is not plain JSON.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(value: Any) -> str:
    """sha256 of the canonical form of a plain JSON value, 64 hex digits."""
    return sha256(canonical(value)).hexdigest()


@overload
def read_record(kind: type[R], data: bytes, name: str) -> R: ...
@overload
def read_record(kind: object, data: bytes, name: str) -> Any: ...
def read_record(kind: Any, data: bytes, name: str) -> Any:
    """The record that a JSON file holds.

    Args:
        kind: The record's class, or a type made of records, such as `tuple[Gate, ...]`.
        data: The file's bytes.
        name: What is read, for the message.

    Raises:
        IntegrityError: The bytes are not JSON, or not such a record, or a number is not finite.
    """
    try:
        return _reader(kind).model_validate_json(data).root
    except (ValidationError, RecursionError) as error:
        raise _not_a(kind, name, error) from None


@overload
def from_values(kind: type[R], values: object, name: str) -> R: ...
@overload
def from_values(kind: object, values: object, name: str) -> Any: ...
def from_values(kind: Any, values: object, name: str) -> Any:
    """The record that plain values, such as parsed JSON, hold.

    Args:
        kind: The record's class, or a type made of records.
        values: Plain values.
        name: What is read, for the message.

    Raises:
        IntegrityError: They are not such a record.
    """
    try:
        return _reader(kind).model_validate(values).root
    except (ValidationError, RecursionError) as error:
        raise _not_a(kind, name, error) from None


def _not_a(kind: Any, name: str, error: Exception) -> IntegrityError:
    shown = "nested too deeply"
    if isinstance(error, ValidationError):
        first, *_ = error.errors(include_url=False, include_input=False)
        place = ".".join(str(part) for part in first.get("loc"))
        shown = f"{place}: {first.get('msg')}" if place else str(first.get("msg"))
    called = getattr(kind, "__name__", str(kind)).lstrip("_")
    return IntegrityError(f"{name} is no {called}: {shown}")


@cache
def _reader(kind: Any) -> Any:
    """What reads a kind of record: no number in it is a NaN or an infinity, as none is written."""
    finite = {"model_config": ConfigDict(allow_inf_nan=False), "__module__": __name__}
    return type("Reader", (RootModel[kind],), finite)
