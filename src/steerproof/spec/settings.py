"""Fields of an experiment that are set beside its file: `--set training.learning_rate=1e-3`.

What is set becomes part of the text that is checked, kept and locked, comments and all, so a run
directory never needs the command line again. The edited text must read as exactly the values meant;
where an alias makes two places one, the plain values are written out instead.
"""

import copy
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from steerproof.errors import ExperimentError
from steerproof.spec import checks
from steerproof.spec.changes import Change, differences
from steerproof.spec.experiment import Experiment
from steerproof.spec.lock import resolved
from steerproof.spec.problems import Keys, Problem, did_you_mean, nearest, shown, spelt
from steerproof.spec.records import read_records, record_at
from steerproof.spec.yaml_io import Loaded, parse_experiment
from steerproof.spec.yaml_tree import UnreadableError, read_tree

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\[\]]+)\]")
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+,-]")
"""What a directory's name should not have, on any system."""
_LONGEST = 100
_LISTED = 30
"""Most allowed keys that a message spells out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field and the value that it is to have."""

    place: str
    """As typed: `training.learning_rate`, `arms[A].ratio`, `cells[0].samples`."""
    text: str
    """The value as typed."""

    def __str__(self) -> str:
        return f"{self.place}={self.text}"


def parse_setting(text: str) -> Setting:
    """Read `PLACE=VALUE`.

    Raises:
        ExperimentError: It has no `=`, or no place before it.
    """
    place, equals, value = text.partition("=")
    if not equals or not place.strip() or not value.strip():
        raise ExperimentError(
            f"{shown(text)} sets nothing; write PLACE=VALUE, such as layers.primary=18"
        )
    return Setting(place=place.strip(), text=value.strip())


def directory_name(settings: Sequence[Setting]) -> str:
    """What a run of these settings is called: readable, and another name for other settings."""
    words = ",".join(f"{setting.place}={setting.text}" for setting in settings)
    safe = _UNSAFE.sub("_", words)
    if safe == words and len(safe) <= _LONGEST:
        return safe
    return f"{safe[:_LONGEST]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def with_settings(loaded: Loaded, settings: Sequence[Setting]) -> tuple[Loaded, tuple[Change, ...]]:
    """An experiment with other values in some of its fields, and what differs by that.

    Args:
        loaded: As its file says.
        settings: In order; a later one sees what an earlier one made.

    Raises:
        ExperimentError: A place does not exist, a value does not fit there, or what results
            contradicts itself; each is named with what is allowed.
    """
    if not settings:
        return loaded, ()
    data: Any = read_tree(loaded.text).data
    places: list[Keys] = []
    for setting in settings:
        keys = _place(setting, data)
        if keys in places:
            raise ExperimentError(f"--set {setting}: {spelt(keys)} is set twice")
        places.append(keys)
        data = _fitting(data, keys, setting)
    _refuse(data, dict(zip(places, settings, strict=True)))
    text = _edited(loaded.text, data, places, settings)
    experiment = parse_experiment(text, f"{loaded.path} with --set")
    changed = differences(resolved(loaded.experiment), resolved(experiment))
    return replace(loaded, experiment=experiment, text=text), tuple(changed)


def _place(setting: Setting, data: Any) -> Keys:
    """Keys and indices of a place; items of a list are called by number or by name."""
    steps = [dotted or index for dotted, index in _STEP.findall(setting.place)]
    if not steps or _STEP.sub("", setting.place):
        raise ExperimentError(
            f"--set {setting}: {shown(setting.place)} is no place; write training.learning_rate,"
            " arms[A].ratio or cells[0].samples"
        )
    keys: Keys = ()
    for step in steps:
        here = _at(data, keys)
        if isinstance(here, list):
            keys = (*keys, _index(setting, here, step, keys))
        else:
            _known(setting, keys, step)
            keys = (*keys, step)
    return keys


def _at(data: Any, keys: Keys) -> Any:
    for key in keys:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _index(setting: Setting, items: list[Any], step: str, keys: Keys) -> int:
    names = [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]
    if step in names:
        return next(i for i, item in enumerate(items) if item.get("name") == step)
    if step.isdigit() and int(step) <= len(items):  # the next number adds an item
        return int(step)
    allowed = f"0 to {len(items)}" + (f", or {', '.join(names[:_LISTED])}" if names else "")
    raise ExperimentError(
        f"--set {setting}: {spelt(keys)} has no {shown(step)}; allowed: {allowed}"
        f"{did_you_mean(step, names)}"
    )


def _known(setting: Setting, keys: Keys, step: str) -> None:
    """Refuse a key that the record at a place does not have."""
    record = record_at(keys)
    if record is None or step in record.model_fields:
        return
    where = spelt(keys) if keys else "the experiment"
    hint = did_you_mean(step, record.model_fields) or _elsewhere(step)
    raise ExperimentError(
        f"--set {setting}: {where} has no {shown(step)}; allowed: "
        f"{', '.join(record.model_fields)}{hint}"
    )


def _elsewhere(step: str) -> str:
    """`; did you mean 'training.learning_rate'?` of a key that stands in some section."""
    by_name: dict[str, str] = {}
    for section in Experiment.model_fields:
        record = record_at((section,))
        if record is not None:
            for name in record.model_fields:
                by_name.setdefault(name, f"{section}.{name}")
    near = nearest(step, by_name)
    return "" if near is None else f"; did you mean '{by_name[near]}'?"


def _fitting(data: Any, keys: Keys, setting: Setting) -> Any:
    """The data with the value in its place: as YAML reads it, or as text where text is needed."""
    try:
        read = read_tree(f"value: {setting.text}")
        value = read.data["value"] if isinstance(read.data, dict) else setting.text
        usable = not read.complaints and isinstance(read.data, dict) and len(read.data) == 1
    except UnreadableError:
        value, usable = setting.text, True
    made = _with(data, keys, value if usable else setting.text)
    if isinstance(value, str) or not any(p.keys == keys for p in read_records(made).problems):
        return made
    as_text = _with(data, keys, setting.text)
    fits = not any(problem.keys == keys for problem in read_records(as_text).problems)
    return as_text if fits else made


def _with(data: Any, keys: Keys, value: object) -> Any:
    """A copy in which a value stands at a place; sections that are absent are made."""
    made = copy.deepcopy(data)
    _put(made, keys, value)
    return made


def _put(data: Any, keys: Keys, value: object) -> None:
    here: Any = data
    for i, key in enumerate(keys[:-1]):
        below = here.get(key) if isinstance(here, dict) else here[key]
        if below is None:
            below = here[key] = {}
        if not isinstance(below, dict | list):
            raise ExperimentError(
                f"--set: {spelt(keys[: i + 1])} is {shown(below)}, so {spelt(keys)} does not exist"
            )
        here = below
    last: Any = keys[-1]
    if isinstance(here, list) and last == len(here):
        here.append(value)
    else:
        here[last] = value


def _refuse(data: Any, asked: dict[Keys, Setting]) -> None:
    """Name every problem that the settings bring, by the setting where it is about one."""
    draft = read_records(data)
    clashes = draft.problems or checks.problems(draft.experiment, draft.sections)
    lines = dict.fromkeys(_line(problem, asked) for problem in clashes)
    if lines:
        raise ExperimentError("\n".join(lines))


def _line(problem: Problem, asked: dict[Keys, Setting]) -> str:
    for keys, setting in asked.items():
        if problem.keys[: len(keys)] == keys:
            return f"--set {setting}: {problem.message}"
    return f"with {_all(asked.values())}, {spelt(problem.keys)}: {problem.message}"


def _all(settings: Iterable[Setting]) -> str:
    return " ".join(f"--set {setting}" for setting in settings)


def _edited(text: str, data: Any, places: Sequence[Keys], settings: Sequence[Setting]) -> str:
    """The text with the values in it: comments kept where that gives exactly these values."""
    head = "".join(f"# set beside the file: {line}\n" for line in _lines(settings))
    for candidate in _candidates(text, data, places):
        whole = head + candidate
        if read_tree(whole).data == data:
            return whole
    raise ExperimentError(f"{_all(settings)} cannot be written into the experiment's text")


def _lines(settings: Sequence[Setting]) -> Iterator[str]:
    for setting in settings:
        yield " ".join(str(setting).split())


def _candidates(text: str, data: Any, places: Sequence[Keys]) -> Iterator[str]:
    kept = YAML(typ="rt")
    kept.preserve_quotes, kept.width = True, 10**6
    kept.indent(mapping=2, sequence=4, offset=2)  # as the shipped files are laid out
    try:
        document = kept.load(text)
        for keys in places:
            _put(document, keys, _at(data, keys))
        yield _dumped(kept, document)
    except (YAMLError, ValueError, KeyError, TypeError, AttributeError):
        pass  # such as an alias inside of its anchor: the plain values say the same
    yield _dumped(YAML(typ="rt"), data)


def _dumped(yaml: YAML, document: object) -> str:
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()
