"""The part of an experiment that a unit depends on, and nothing else.

A unit's key is made from such a slice. The function that does the unit gets the slice back as an
`Experiment` in which every other field is absent: reading one raises AttributeError, so a unit
cannot come to depend on something that its key does not hold.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from steerproof.spec.experiment import Experiment
from steerproof.spec.record import Record

R = TypeVar("R", bound=Record)


def pick(whole: Mapping[str, Any], *paths: str) -> dict[str, Any]:
    """The named fields of an experiment as plain JSON, whose values slices share.

    `questions.training` takes one field of a record. A field that is written only where it is used
    is absent where it is not.
    """
    picked: dict[str, Any] = {}
    for path in paths:
        head, _, rest = path.partition(".")
        if head not in whole and head in Experiment.model_fields:
            continue
        if rest:
            part = picked.setdefault(head, {})
            if rest in whole[head]:
                part[rest] = whole[head][rest]
        else:
            picked[head] = whole[head]
    return picked


def partial_experiment(slice_: Mapping[str, Any]) -> Experiment:
    """An experiment that has the fields of a slice and no others.

    A field that is written only where it is used has its default where the slice lacks it.
    """
    return _partial(Experiment, slice_)


def _partial(record: type[R], values: Mapping[str, Any]) -> R:
    fields = {name: _field(record.model_fields[name], value) for name, value in values.items()}
    built = record.model_construct(**fields)
    for name in set(record.model_fields) - set(fields):
        if record.model_fields[name].exclude_if is None:
            vars(built).pop(name, None)
    return built


def _field(info: FieldInfo, value: Any) -> Any:
    kind = info.annotation
    if isinstance(kind, type) and issubclass(kind, Record):
        return _partial(kind, value)
    adapter: TypeAdapter[Any] = TypeAdapter(info.rebuild_annotation())
    return adapter.validate_json(json.dumps(value), strict=True)
