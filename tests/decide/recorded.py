"""What is computed anew against what was recorded: all equal, numbers to their last digits."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LAST_DIGITS = 1e-14
"""Records of before this bear quantiles that another library had rounded to within 4e-16."""


def differing(again: Any, recorded: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ."""
    if isinstance(recorded, Mapping) and isinstance(again, Mapping):
        if list(again) != list(recorded):
            yield f"{place}: {list(again)} is not {list(recorded)}"
        for name in set(again) & set(recorded):
            yield from differing(again[name], recorded[name], f"{place}.{name}")
    elif _listed(recorded) and _listed(again) and len(again) == len(recorded):
        for index, (one, other) in enumerate(zip(again, recorded, strict=True)):
            yield from differing(one, other, f"{place}[{index}]")
    elif type(again) is type(recorded) is float:
        if not math.isclose(again, recorded, rel_tol=_LAST_DIGITS, abs_tol=0.0):
            yield f"{place}: {again} is not {recorded}"
    elif again != recorded:
        yield f"{place}: {again} is not {recorded}"


def _listed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
