"""Who is told where long work stands: its phases, and how much of the main work is done."""

from statistics import fmean
from typing import Protocol, runtime_checkable

from steerproof.engine.generate import GenerationProgress, OnProgress

TOLD_SECONDS = 0.5
"""Between two words about completions at least: counting those in flight takes time."""


@runtime_checkable
class Told(Protocol):
    """Is told where work stands. It must be cheap to tell it."""

    @property
    def due(self) -> bool:
        """Whether it is time to say something; what is said before is ignored."""
        ...

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

    due = False

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


class Steps:
    """Counts training steps over all adapters that are trained together."""

    def __init__(self, told: Told, adapters: int) -> None:
        """No step is done yet.

        Args:
            told: Who is told.
            adapters: That are trained.
        """
        self._told, self._adapters = told, adapters
        self._seen: dict[str, tuple[int, int, float]] = {}
        """Steps done, steps in all, and the last loss of each adapter that has begun."""

    def __call__(self, adapter: str, done: int, total: int, loss: float) -> None:
        """A step of an adapter was done."""
        self._seen[adapter] = (done, total, loss)
        if not self._told.due:
            return
        seen = self._seen.values()
        training = [loss for done, total, loss in seen if done < total]
        # Those that wait for a slot are taken to be as long as those that have begun.
        total = round(fmean(total for _, total, _ in seen) * self._adapters)
        self._told.at(
            sum(done for done, _, _ in seen),
            total,
            "steps",
            loss=fmean(training or [loss for _, _, loss in seen]),
        )
