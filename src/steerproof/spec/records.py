"""Plain values to the strict records; everything that does not fit, in words."""

import copy
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import ErrorDetails

from steerproof.spec.experiment import Experiment
from steerproof.spec.problems import Keys, Problem, did_you_mean, nearest, shown
from steerproof.spec.record import Record

_SHAPES = {
    "string_type": "text is needed; quote it if it looks like a number",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "bool_type": "true or false is needed",
    "tuple_type": "a list is needed",
    "dict_type": "a mapping is needed",
    "model_type": "a mapping is needed",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": (
        "1 to 64 letters, digits, '_' and '-', the first a letter or digit"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": (
        "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
    ),
    r"^[0-9a-f]{40}$": "a commit: 40 hex digits in lower case",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An experiment as far as its file can be read."""

    experiment: Experiment
    """Complete if there are no problems; else only its `sections` may be read."""
    sections: frozenset[str]
    """Top-level fields that hold a usable value."""
    problems: tuple[Problem, ...]
    """Everything that does not fit the records."""


def read_records(data: object) -> Draft:
    """Fit plain values to `Experiment`.

    JSON rules apply: a list becomes a tuple and `1` is a number, but no text becomes a number and
    no number becomes text. If something does not fit, each top-level field is fitted alone,
    without its unknown keys, so that other checks of the usable fields can still be made.
    """
    try:
        experiment = Experiment.model_validate_json(json.dumps(data))
    except ValidationError as error:
        located = [_located(detail, data) for detail in error.errors(include_url=False)]
    else:
        every = frozenset(Experiment.model_fields)
        return Draft(experiment=experiment, sections=every, problems=())
    values = _usable(data, located) if isinstance(data, dict) else {}
    return Draft(
        experiment=Experiment.model_construct(**values),
        sections=frozenset(values),
        problems=tuple(_described(located)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One complaint of pydantic, tied to the place in the data."""

    detail: ErrorDetails
    keys: Keys
    union: Keys | None
    """Place of the field with several allowed types whose one type this complaint is about."""

    @property
    def kind(self) -> str:
        return self.detail["type"]

    @property
    def about_shape(self) -> bool:
        return self.kind in _SHAPES or self.kind == "literal_error"


def _located(detail: ErrorDetails, data: object) -> _Found:
    """Drop what pydantic adds to a location: names of union members, and `[key]`."""
    keys: Keys = ()
    union = None
    here: Any = data
    for step in detail["loc"]:
        if _holds(here, step):
            keys, here = (*keys, step), here[step]
        elif detail["type"] == "missing" or _is_strange_key(detail, step):
            keys = (*keys, step)
        elif step != "[key]":
            union = keys
    return _Found(detail=detail, keys=keys, union=union)


def _is_strange_key(detail: ErrorDetails, step: str | int) -> bool:
    """Whether it is an unknown key that pydantic spells otherwise than the file (joined emoji)."""
    return detail["type"] == "extra_forbidden" and step == detail["loc"][-1]


def _holds(here: Any, step: str | int) -> bool:
    if isinstance(here, list):
        return step in range(len(here))
    return isinstance(here, dict) and step in here


def _described(located: list[_Found]) -> Iterable[Problem]:
    located = [item for item in located if not _only_seems_short(item)]
    by_union: dict[Keys, list[_Found]] = defaultdict(list)
    for item in located:
        if item.union is not None:
            by_union[item.union].append(item)
    for item in located:
        if item.union is None:
            yield _problem(item)
            continue
        group = by_union.pop(item.union, [])
        inside = [one for one in group if not (one.about_shape and one.keys == item.union)]
        if inside:
            yield from (_problem(one) for one in inside)
        elif group:
            needs = " or ".join(_need(one) for one in group)
            value = item.detail["input"]
            hint = did_you_mean(value, _choices(group)) if isinstance(value, str) else ""
            yield Problem(keys=item.keys, message=f"{shown(value)}: {needs}{hint}")


def _only_seems_short(item: _Found) -> bool:
    """A list counts as short when its items are wrong; those are reported themselves."""
    return item.kind == "too_short" and len(item.detail["input"]) >= _context(item, "min_length")


def _problem(item: _Found) -> Problem:
    value, kind = item.detail["input"], item.kind
    if kind == "missing":
        record = record_at(item.keys[:-1])
        meaning = record.model_fields[str(item.keys[-1])].description if record else ""
        return Problem(keys=item.keys, message=f"missing: {meaning}")
    if kind == "extra_forbidden":
        record = record_at(item.keys[:-1])
        allowed = list(record.model_fields) if record else []
        hint = did_you_mean(str(item.keys[-1]), allowed)
        message = f"unknown key; allowed: {', '.join(allowed)}{hint}"
        return Problem(keys=item.keys, message=message, on_key=True)
    if kind == "value_error":
        return Problem(keys=item.keys, message=str(_context(item, "error")))
    hint = did_you_mean(value, _choices([item])) if isinstance(value, str) else ""
    on_key = "[key]" in item.detail["loc"]
    return Problem(keys=item.keys, message=f"{_size(item)}: {_need(item)}{hint}", on_key=on_key)


def _size(item: _Found) -> str:
    """The value, or how long it is where that is what is wrong."""
    value = item.detail["input"]
    if item.kind in ("too_short", "too_long"):
        return f"{len(value)} items"
    if item.kind == "string_too_long":
        return f"{len(value)} characters"
    return shown(value)


def _need(item: _Found) -> str:
    """What is allowed instead."""
    kind = item.kind
    if kind in _SHAPES:
        return _SHAPES[kind]
    if kind == "literal_error":
        return f"allowed is {_context(item, 'expected')}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {_context(item, name)}"
    if kind == "string_pattern_mismatch":
        pattern = _context(item, "pattern")
        return f"allowed is {_PATTERNS.get(pattern, pattern)}"
    if kind in ("too_short", "string_too_short"):
        return f"at least {_context(item, 'min_length')} needed"
    if kind in ("too_long", "string_too_long"):
        return f"at most {_context(item, 'max_length')} allowed"
    return item.detail["msg"]


def _context(item: _Found, name: str) -> Any:
    return item.detail.get("ctx", {})[name]


def _choices(items: Iterable[_Found]) -> list[str]:
    expected = [_context(item, "expected") for item in items if item.kind == "literal_error"]
    return re.findall(r"'([^']*)'", " ".join(expected))


def record_at(keys: Keys) -> type[BaseModel] | None:
    """The record that stands at a place."""
    record: type[BaseModel] | None = Experiment
    for key in keys:
        if isinstance(key, int):
            continue
        if record is None or key not in record.model_fields:
            return None
        record = _record_in(record.model_fields[key].annotation)
    return record


def _record_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_record_in(part) for part in get_args(annotation))
    return next((record for record in inner if record), None)


def _usable(data: dict[str, Any], located: list[_Found]) -> dict[str, Any]:
    """The top-level fields that fit by themselves once unknown keys are dropped.

    A field that is absent but probably meant by an unknown key is left out, not defaulted.
    """
    known = copy.deepcopy(data)
    for item in located:
        if item.kind == "extra_forbidden":
            parent: Any = known
            for key in item.keys[:-1]:
                parent = parent[key]
            parent.pop(item.keys[-1], None)
    unknown = {str(item.keys[0]) for item in located if len(item.keys) == 1} & (data.keys() - known)
    meant = {nearest(key, Experiment.model_fields) for key in unknown}
    values: dict[str, Any] = {}
    for name, field in Experiment.model_fields.items():
        if name in known:
            try:
                fitted = _alone(name).model_validate_json(json.dumps({"value": known[name]}))
                values[name] = dict(fitted)["value"]
            except ValidationError:
                continue  # reported already, from the whole
        elif name not in meant and not field.is_required():
            values[name] = field.get_default()
    return values


@cache
def _alone(name: str) -> type[Record]:
    """A record with a field of the experiment and no other, called `value`."""
    field = Experiment.model_fields[name]
    kind: Any = field.annotation
    return create_model("Alone", __base__=Record, value=(kind, field))
