"""One thing that is wrong in an experiment, where it stands, and the words for it."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from steerproof.spec.experiment import Experiment

Keys = tuple[str | int, ...]
"""Place in the experiment: keys and 0-based list indices from the root."""

_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong; `message` says the value, what is allowed and the way out."""

    keys: Keys
    """The value that is wrong; a key that is absent is reported at its parent."""
    message: str
    on_key: bool = False
    """Point at the key instead of the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule over one or more top-level fields of an experiment."""

    reads: set[str]
    """The only top-level fields that `find` may look at."""
    find: Callable[[Experiment], Iterator[Problem]]
    """Every place where the rule is broken."""


def spelt(keys: Keys) -> str:
    """Write a place as people do: `arms[2].ratio`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".") or "file"


def shown(value: object) -> str:
    """The value as it would stand in the file, shortened to one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that was probably meant, if any is near.

    Upper and lower case count as the same, since that is the commonest slip.
    """
    known = {known.lower(): known for known in allowed}
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return known[near[0]] if near else None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest allowed word, or nothing."""
    near = nearest(word, allowed)
    return f"; did you mean '{near}'?" if near is not None else ""


def twice(section: str, names: Iterable[str]) -> Iterator[Problem]:
    """Items whose name is taken, whatever its case: names become directories."""
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        earlier = first.setdefault(name.lower(), i)
        if earlier != i:
            message = f"{shown(name)} is taken by item {earlier} (counted from 0)"
            yield Problem(keys=(section, i, "name"), message=message)
