"""A brake on guessing passwords that cannot be turned against the one whose password is guessed.

Every try is counted before its password is looked at, so tries at once do not pass the limit, and
is taken back when the password was right. There are three counts:

- of an address, whatever names it tries;
- of a name, from everywhere, for tries by strangers alone;
- of a *known browser* and its name: one that signed in as that name before carries a sealed token,
  and its tries are counted by that token only. Whoever guesses at a name from elsewhere therefore
  never keeps out its owner, who also has the one-time link of the terminal.

Counts of names are kept in a table of fixed size under a secret hash: no flood of other names
clears one, and none can be aimed at.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from steerproof.errors import SteerproofError

WINDOW_SECONDS = 300.0
OF_A_NAME = 24
"""Wrong passwords for one name, by strangers, before strangers must wait."""
OF_A_BROWSER = 8
"""Wrong passwords from one known browser."""
OF_AN_ADDRESS = 16
"""Wrong passwords from one address, for any names."""
SLOTS = 4096
"""Counts of names; several names may share one."""
MOST = 8192
"""Addresses, and browsers, that are remembered at once."""
AT_ONCE = 2
"""Passwords that are hashed at one time; each takes 64 MB."""
WAIT_SECONDS = 5.0

_WAIT = "too many wrong passwords: wait five minutes, or use the one-time link of the terminal"


class SignInError(SteerproofError):
    """A sign-in that is refused; the message does not say which part was wrong."""


class BusyError(SignInError):
    """Too many sign-ins at one time."""


@dataclass(slots=True)
class _Tries:
    """Times of wrong tries by key; of more than `MOST` keys the longest idle are forgotten."""

    limit: int
    times: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    def full(self, key: str, now: float) -> bool:
        """Whether the key has used up its tries."""
        recent = self.times.get(key)
        while recent and now - recent[0] > WINDOW_SECONDS:
            recent.popleft()
        return recent is not None and len(recent) >= self.limit

    def add(self, key: str, now: float) -> None:
        """Count a try."""
        self.times.setdefault(key, deque()).append(now)
        self.times.move_to_end(key)
        while len(self.times) > MOST:
            self.times.popitem(last=False)

    def take_back(self, key: str, now: float) -> None:
        """The try was right after all."""
        recent = self.times.get(key)
        if recent and now in recent:
            recent.remove(now)


@dataclass(slots=True)
class Brake:
    """The counts of one board, in memory."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    names: _Tries = field(default_factory=lambda: _Tries(OF_A_NAME))
    browsers: _Tries = field(default_factory=lambda: _Tries(OF_A_BROWSER))
    addresses: _Tries = field(default_factory=lambda: _Tries(OF_AN_ADDRESS))
    lock: threading.Lock = field(default_factory=threading.Lock)
    hashing: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(AT_ONCE)
    )

    @contextmanager
    def trying(self, name: str, address: str, browser: str | None) -> Iterator["Try"]:
        """Count a try, let its password be looked at, and take it back if it was right.

        Args:
            name: Who it says it is.
            address: Where it comes from.
            browser: The sealed token of a known browser of that name; none of a stranger.

        Raises:
            SignInError: There were too many wrong ones.
            BusyError: Too many passwords are being looked at.
        """
        counts = self._counts(name, address, browser)
        one = Try()
        with self.lock:
            now = time.monotonic()
            if any(count.full(key, now) for count, key in counts):
                raise SignInError(_WAIT)
            for count, key in counts:
                count.add(key, now)
        if not self.hashing.acquire(timeout=WAIT_SECONDS):
            self._take_back(counts, now)
            raise BusyError("many people are signing in: try again in a moment")
        try:
            yield one
        finally:
            self.hashing.release()
            if one.right:
                self._take_back(counts, now)

    def _take_back(self, counts: list[tuple[_Tries, str]], now: float) -> None:
        with self.lock:
            for count, key in counts:
                count.take_back(key, now)

    def _counts(self, name: str, address: str, browser: str | None) -> list[tuple[_Tries, str]]:
        if browser is not None:
            return [(self.browsers, browser)]
        slot = int.from_bytes(hmac.digest(self.secret, name.encode(), "sha256")[:4]) % SLOTS
        return [(self.names, str(slot)), (self.addresses, network(address))]


@dataclass(slots=True)
class Try:
    """One password."""

    right: bool = False


def network(address: str) -> str:
    """What counts as one address: all of an IPv6 network of 64 bits is one household."""
    try:
        known = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(known, IPv6Address) and known.ipv4_mapped is None:
        return str(IPv6Address(int(known) >> 64 << 64))
    return str(known)


def known_browser(secret: bytes, name: str) -> str:
    """A token for a browser that has just signed in as this name: a number, sealed to the name."""
    number = secrets.token_urlsafe(16)
    return f"{number}.{_seal(secret, name, number)}"


def recognise(secret: bytes, name: str, token: str | None) -> str | None:
    """The browser's number, if the token was given to it for this name."""
    number, dot, seal = (token or "").partition(".")
    if not dot or not hmac.compare_digest(_seal(secret, name, number).encode(), seal.encode()):
        return None
    return number


def _seal(secret: bytes, name: str, number: str) -> str:
    return hmac.new(secret, f"browser {name} {number}".encode(), hashlib.sha256).hexdigest()
