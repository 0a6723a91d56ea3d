"""Every run as a row of a table that can be sorted by any of its columns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steerproof.board import recipe
from steerproof.board.answers import Answer, correlation
from steerproof.board.cards import Card
from steerproof.board.context import locked_by

_TONES = ("yes", "open", "no", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRow:
    """One run."""

    card: Card
    model: str
    seeds: str
    recipe: str
    answers: tuple[Answer, ...]
    """Registered, ranking, direction; empty before there is a verdict."""
    rho: float | None
    """Registered correlation of the tested arm."""
    correlation: str
    """The same with its interval, in words."""


def _answer(place: int) -> Callable[[ListRow], tuple[int, str]]:
    def key(row: ListRow) -> tuple[int, str]:
        if not row.answers:
            return len(_TONES), ""
        answer = row.answers[place]
        return _TONES.index(answer.tone), answer.word

    return key


COLUMNS: dict[str, tuple[str, Callable[[ListRow], Any]]] = {
    "number": ("No.", lambda row: row.card.entry.number),
    "title": ("Experiment", lambda row: row.card.entry.title.casefold()),
    "registered": ("Registered", _answer(0)),
    "ranking": ("Ranking", _answer(1)),
    "direction": ("Direction", _answer(2)),
    "rho": ("ρ (interval)", lambda row: (row.rho is None, row.rho or 0.0)),
    "model": ("Model", lambda row: row.model.casefold()),
    "seed": ("Seed", lambda row: [int(seed) for seed in row.seeds.split(", ")]),
    "recipe": ("Recipe", lambda row: row.recipe),
    "changed": ("Changed", lambda row: -row.card.changed),
}
"""Heading and order of each column, by its name in an address; keys of one column compare."""


def rows(cards: Iterable[Card]) -> list[ListRow]:
    """A row for every card whose run is locked."""
    return [row for row in map(_row, cards) if row is not None]


def ordered(listed: Sequence[ListRow], column: str, *, down: bool) -> list[ListRow]:
    """Sorted by a column; equal ones by number, newest first."""
    _, key = COLUMNS[column]
    newest = sorted(listed, key=lambda row: -row.card.entry.number)
    return sorted(newest, key=key, reverse=down)


def _row(card: Card) -> ListRow | None:
    locked = locked_by(card.entry)
    if locked is None:
        return None
    tested = None if card.head is None else card.head.tested
    return ListRow(
        card=card,
        model=recipe.model(locked),
        seeds=recipe.seeds(locked),
        recipe=recipe.training(locked),
        answers=card.answers,
        rho=None if tested is None else tested.rho,
        correlation=correlation(tested),
    )
