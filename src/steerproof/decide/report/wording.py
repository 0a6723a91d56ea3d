"""Numbers and names as words: one spelling everywhere in a report."""

import re
from collections.abc import Mapping, Sequence

UNDEFINED = "undefined"

Number = int | float | None
"""A number of the analysis; None where it is undefined."""

KILL_MEANINGS: Mapping[str, str] = {
    "uniform_zero": "every steered cell of the arm stays at or below the floor",
    "baseline_rate_driven": "the unsteered rate already gives the ranking",
    "sign_inverted": "with the persona prompt on, the push lowers the rate",
    "no_correlation": "the steered ranking does not follow the bridge",
    "direction_not_specific": "a random direction of the same norm does as well",
}
_KILL = re.compile("|".join(KILL_MEANINGS))

_NUMBERS: Mapping[str, str] = {
    "max_rate": "largest steered rate",
    "rho_baseline_steered": "ρ(unsteered, steered)",
    "rho_baseline_bridge": "ρ(unsteered, bridge)",
    "n_inverted": "personas that fell",
    "n": "personas compared",
    "rho": "ρ",
    "rho_direction": "ρ of the direction",
    "rho_isotropic": "ρ of the random direction",
    "mean_rate_direction": "mean rate, direction",
    "mean_rate_isotropic": "mean rate, random direction",
    "wilson_half_width": "larger Wilson half-width",
}


def signed(value: Number, digits: int = 2) -> str:
    """`+0.84`, with a real minus sign; `undefined` for None."""
    return UNDEFINED if value is None else _minus(f"{value:+.{digits}f}")


def plain(value: Number, digits: int = 3) -> str:
    """`0.84` with up to `digits` significant digits; `undefined` for None."""
    return UNDEFINED if value is None else _minus(f"{value:.{digits}g}")


def fixed(value: Number, digits: int = 2) -> str:
    """`0.20`, always with as many decimals; `undefined` for None."""
    return UNDEFINED if value is None else _minus(f"{value:.{digits}f}")


def bounds(interval: Sequence[int | float] | None, digits: int = 2) -> str:
    """`+0.68 to +0.94`; `undefined` for None."""
    if interval is None:
        return UNDEFINED
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


def percent(value: Number) -> str:
    """`57%`; `undefined` for None."""
    return UNDEFINED if value is None else f"{100 * value:.0f}%"


def probability(value: Number) -> str:
    """`0.03`, and `< 0.0001` rather than 0."""
    if value is None:
        return UNDEFINED
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def yes(value: bool | None, names: tuple[str, str] = ("yes", "no")) -> str:
    """A flag in words; `undecided` for None."""
    return "undecided" if value is None else names[0] if value else names[1]


def duration(seconds: Number) -> str:
    """`18 min 21 s`; says so when it was not measured."""
    if seconds is None:
        return "not measured"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "0 s"


def with_meanings(reason: str) -> str:
    """A reason with every kill in it followed by what it means."""
    return _KILL.sub(lambda m: f"{m[0].replace('_', ' ')} ({KILL_MEANINGS[m[0]]})", reason)


def number_name(name: str) -> str:
    """A number of a kill in words."""
    return _NUMBERS.get(name, name.replace("_", " "))


def sentence(text: str) -> str:
    """Upper-case first letter and a full stop, for text that comes without."""
    text = text.strip()
    ended = text if text.endswith((".", "!", "?")) else f"{text}."
    return ended[:1].upper() + ended[1:]


def _minus(text: str) -> str:
    return text.replace("-", "−")
