"""What each unit of an order took, of work that many of them share.

Units of a pool end together, or nearly: the time until the first of them ends is not its own. Each
unit takes its part of the time that nobody has taken yet, and the last one takes what is left, so
that the units of an order sum to the time that the order took.
"""

import time


class Spent:
    """The clock of the work on one order; it stands while that waits for a unit to be written.

    What a thread writes while the work goes on is nobody's time.
    """

    def __init__(self) -> None:
        """Nothing was done yet."""
        self._since: float | None = None
        self._open = 0.0
        """Seconds of work that no unit has taken yet."""
        self._own: float | None = None

    def go_on(self) -> None:
        """Work begins, or goes on after a unit has ended."""
        self._since = time.monotonic()

    def alone(self, seconds: float) -> None:
        """The unit that ends next was at work by itself for so long."""
        self._own = seconds

    @property
    def alone_next(self) -> bool:
        """Whether the unit that ends next was at work by itself."""
        return self._own is not None

    def on_next(self, left: int, in_hand: float | None) -> float:
        """The seconds of the unit that has just ended.

        Args:
            left: Units that had not ended before it, with it.
            in_hand: Units' worth of work that is done in these; None if it is not known.
        """
        now = time.monotonic()
        self._open += 0.0 if self._since is None else now - self._since
        self._since = now
        own, self._own = self._own, None
        if own is None:
            own, sharing = 0.0, left if in_hand is None else min(left, max(1.0, in_hand))
        else:
            sharing = left  # what came before the first, as the model's loading, is everybody's
        own = min(own, self._open)
        seconds = own + (self._open - own) / sharing
        self._open -= seconds
        return seconds
