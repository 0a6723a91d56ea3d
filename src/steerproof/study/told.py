"""Who is told where long work stands: its phases, and how much of the main work is done."""

from typing import Protocol, runtime_checkable

from steerproof.engine.generate import GenerationProgress, OnProgress

TOLD_SECONDS = 0.5
"""Between two words about completions at least: counting those in flight takes time."""


@runtime_checkable
class Told(Protocol):
    """Is told where work stands. It must be cheap to tell it."""

    def phase(self, words: str) -> None:
        """Something else than the main work begins; empty words begin that."""
        ...

    def at(
        self, done: int, total: int, what: str, *, tokens: int = 0, loss: float | None = None
    ) -> None:
        """So much of the main work is done, counted in `what`."""
        ...


class Nobody:
    """Does not care."""

    def phase(self, words: str) -> None:
        """Ignored."""

    def at(
        self, done: int, total: int, what: str, *, tokens: int = 0, loss: float | None = None
    ) -> None:
        """Ignored."""


NOBODY = Nobody()


def completions(told: Told, total: int, before: int = 0) -> OnProgress:
    """Passes on how many completions are drawn.

    Args:
        told: Who is told.
        total: Completions in all.
        before: Those that were drawn earlier.
    """

    def pass_on(progress: GenerationProgress) -> None:
        told.at(before + progress.done, total, "completions", tokens=progress.tokens)

    return pass_on
