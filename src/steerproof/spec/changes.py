"""Which fields differ between two resolved experiments."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steerproof.spec.problems import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that differs."""

    field: str
    """Place, such as `personas[villain].prompt`."""
    old: Any
    """Value that was locked; None if it was absent."""
    new: Any
    """Value now; None if it is absent."""
    matters: bool
    """Whether it can change a result."""

    def __str__(self) -> str:
        return f"{self.field}: {shown(self.old)} -> {shown(self.new)}"


def differences(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    under: str = "",
    cosmetic: tuple[str, ...] = (),
) -> Iterator[Change]:
    """Every leaf that differs, in the order of the old fields, then of the new ones.

    Args:
        old: Plain values.
        new: Plain values.
        under: Name that the fields are written under.
        cosmetic: Fields whose changes do not matter.
    """
    for key in dict.fromkeys([*old, *new]):
        place = f"{under}.{key}" if under else key
        yield from _between(place, old.get(key), new.get(key), key not in cosmetic)


def _between(place: str, old: Any, new: Any, matters: bool) -> Iterator[Change]:
    if old == new and type(old) is type(new):
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _between(f"{place}.{key}", old.get(key), new.get(key), matters)
    elif _named(old) and _named(new):
        yield from _between_named(place, old, new, matters)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _between(f"{place}[{i}]", before, after, matters)
    elif _texts(old) and _texts(new):
        yield from _between_texts(place, old, new, matters)
    else:
        yield Change(field=place, old=old, new=new, matters=matters)


def _between_named(place: str, old: Any, new: Any, matters: bool) -> Iterator[Change]:
    """Match items by name, so that one more persona is one change."""
    before = {item["name"]: item for item in old}
    after = {item["name"]: item for item in new}
    for name in dict.fromkeys([*before, *after]):
        yield from _between(f"{place}[{name}]", before.get(name), after.get(name), matters)
    kept = [name for name in before if name in after]
    moved = [name for name in after if name in before]
    if kept != moved:
        yield Change(field=f"{place} (order)", old=kept, new=moved, matters=matters)


def _between_texts(place: str, old: Any, new: Any, matters: bool) -> Iterator[Change]:
    """Lists of texts of different lengths: which ones are gone, which are new."""
    gone = [text for text in old if text not in new]
    come = [text for text in new if text not in old]
    if not gone and not come:
        yield Change(field=place, old=old, new=new, matters=matters)
    for text in gone:
        yield Change(field=f"{place} (removed)", old=text, new=None, matters=matters)
    for text in come:
        yield Change(field=f"{place} (added)", old=None, new=text, matters=matters)


def _named(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and "name" in item for item in value)
        and len({item["name"] for item in value}) == len(value)
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
