"""One thing that is wrong in an experiment, where it stands, and the words for it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

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


def spelt(keys: Keys) -> str:
    """Write a place as people do: `arms[2].ratio`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")


def shown(value: object) -> str:
    """The value as it would stand in the file, shortened to one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def listed(words: Iterable[str]) -> str:
    """Join words for reading: `a, b or c`."""
    known = list(words)
    return " or ".join(filter(None, (", ".join(known[:-1]), *known[-1:])))


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest allowed word, or nothing.

    Upper and lower case count as the same, since that is the commonest slip.
    """
    known = {known.lower(): known for known in allowed}
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean '{known[near[0]]}'?" if near else ""
