"""What a command does that says nothing: a line on the terminal once it has been silent for long.

Nothing is said where standard error is not a terminal, and nothing where the answer comes at once.
"""

import math
import sys
import threading
import time
from contextlib import suppress

from steerproof.text import clean_line, duration

SILENCE = 1.5
"""Seconds until the first line; each further one comes after three times as long as the last."""
_LOOK = 0.1
_APART = 1.0
"""Seconds between two lines of `tell` at least: rounds of a trial may be quicker."""
MODEL = "looking into the model, its tokenizer and every prompt"
WORDS = {
    "init": MODEL,
    "run": "reading the experiment",
    "sweep": "reading the experiment",
    "report": "drawing the figures and writing the report",
    "figures": "drawing the figures",
    "completions": "reading every completion",
    "requests": "reading adapters and directions",
    "analyze": "resampling the rate table",
    "status": "reading the ledger",
    "explain": "comparing what the unit was made from with what is there",
    "verify": "hashing every file",
    "lock": MODEL,
    "doctor": "trying the machine",
    "power": "simulating experiments",
    "propose": "reading the experiment",
    "plan": MODEL,
    "directions": "reading directions",
    "adapters": "reading adapters",
}
"""What each command begins with."""


class _Waiting:
    """Watches one command."""

    def __init__(self) -> None:
        self._words = ""
        self._since = self._due = 0.0
        self._told = -math.inf
        self._over = threading.Event()
        self._over.set()

    def begin(self, words: str, *, told: bool = False) -> None:
        """Something begins, which is shown if it takes long.

        Args:
            words: What it is.
            told: They are on the terminal already: at first there is no need to repeat them.
        """
        if sys.stderr is None or not sys.stderr.isatty():
            return
        self._words = words
        self._since = time.monotonic()
        self._due = self._since + (3 if told else 1) * SILENCE
        if self._over.is_set():
            self._over = threading.Event()
            threading.Thread(target=self._watch, args=(self._over,), daemon=True).start()

    def tell(self, line: str) -> None:
        """Say what begins now, terminal or not."""
        spoken = time.monotonic() - self._told > _APART
        if spoken and sys.stderr is not None:
            sys.stderr.write(f"{clean_line(line)}\n")
            sys.stderr.flush()
            self._told = time.monotonic()
        self.begin(line, told=spoken)

    def end(self) -> None:
        """An answer comes: nothing needs to be said any more."""
        self._over.set()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_LOOK):
            now = time.monotonic()
            if now < self._due:
                continue
            waited = now - self._since
            after = f" ({duration(waited)} so far)" if waited > 2 * SILENCE else ""
            with suppress(OSError, ValueError):  # the terminal was closed
                sys.stderr.write(f"{clean_line(self._words)} ...{after}\n")
                sys.stderr.flush()
            self._due = now + 3 * waited


_WAITING = _Waiting()
begin, tell, end = _WAITING.begin, _WAITING.tell, _WAITING.end
