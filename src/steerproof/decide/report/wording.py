"""Numbers and names as words: one spelling everywhere in a report."""

import re
from collections.abc import Sequence

from steerproof import text
from steerproof.decide.analysis.kills import criteria

_UNDEFINED = "undefined"

Number = int | float | None
"""A number of the analysis; None where it is undefined."""


def signed(value: Number, digits: int = 2) -> str:
    """`+0.84`, with a real minus sign; `undefined` for None."""
    return _UNDEFINED if value is None else _minus(f"{value:+z.{digits}f}")


def plain(value: Number, digits: int = 3) -> str:
    """`0.84` with up to `digits` significant digits; `undefined` for None."""
    return _UNDEFINED if value is None else _minus(f"{value:.{digits}g}")


def fixed(value: Number, digits: int = 2) -> str:
    """`0.20`, always with as many decimals; `undefined` for None."""
    return _UNDEFINED if value is None else _minus(f"{value:z.{digits}f}")


def bounds(interval: Sequence[int | float] | None, digits: int = 2) -> str:
    """`+0.68 to +0.94`; `undefined` for None."""
    if interval is None:
        return _UNDEFINED
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


def percent(value: Number) -> str:
    """`57%`; `undefined` for None."""
    return _UNDEFINED if value is None else f"{100 * value:z.0f}%"


def probability(value: Number) -> str:
    """`0.03`, and `< 0.0001` rather than 0."""
    if value is None:
        return _UNDEFINED
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def yes(value: bool | None, names: tuple[str, str] = ("yes", "no")) -> str:
    """A flag in words; `undecided` for None."""
    return "undecided" if value is None else names[0] if value else names[1]


def duration(seconds: Number) -> str:
    """`18 min 21 s`; says so when it was not measured."""
    return "not measured" if seconds is None else text.duration(seconds)


def with_meanings(reason: str) -> str:
    """A reason with every kill in it followed by what it means."""
    meanings = {criterion.name: criterion.meaning for criterion in criteria()}
    names = re.compile("|".join(map(re.escape, meanings)))
    return names.sub(lambda m: f"{m[0].replace('_', ' ')} ({meanings[m[0]]})", reason)


def symbols(text: str) -> str:
    """The words of a registration in print: `rho <= 0.4` as `ρ ≤ 0.4`."""
    greek = re.sub(r"\brho\b", "ρ", text)
    return greek.replace("<=", "≤").replace(">=", "≥").replace(" - ", " − ")


def sentence(text: str) -> str:
    """Upper-case first letter and a full stop, for text that comes without; `c=+2` stays."""
    text = text.strip()
    ended = text if text.endswith((".", "!", "?")) else f"{text}."
    symbol = "=" in ended.partition(" ")[0]
    return ended if symbol else ended[:1].upper() + ended[1:]


def _minus(text: str) -> str:
    return text.replace("-", "−")
