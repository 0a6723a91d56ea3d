"""Users, sign-in and sessions.

Passwords are argon2 hashes. A session is a random token in a cookie; the database holds only its
hash. At start a one-time link signs in whoever can read the terminal. Every form carries a token
that belongs to the session, so that another page cannot act in its name.
"""

import hashlib
import hmac
import re
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from steerproof.board.database import (
    now,
    open_board,
    secret_digest,
    select_one,
    transaction,
    usable,
)
from steerproof.errors import SteerproofError
from steerproof.spec.problems import shown

SESSION_SECONDS = 30 * 24 * 3600.0
_SHORTEST_PASSWORD = 10
_LONGEST_PASSWORD = 1000

_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_hasher = PasswordHasher()


@dataclass(slots=True)
class OneTime:
    """The secret of the link printed at start: good for one sign-in of one name."""

    user: str
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    used: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def redeem(self, offered: str) -> str | None:
        """The user's name the first time the right secret is offered; none otherwise."""
        with self.lock:
            same = hmac.compare_digest(self.secret.encode(), offered.encode())
            if not same or self.used:
                return None
            self.used = True
            return self.user


def add_user(board_dir: Path, name: str, password: str) -> None:
    """Create a user, or give an existing one a new password and end their sessions.

    Raises:
        SteerproofError: The name or the password is not acceptable.
    """
    if not _NAME.fullmatch(name):
        raise SteerproofError(
            f"user name {name!r}: 1 to 32 of a-z 0-9 . _ and -, beginning with a letter"
        )
    if not _SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise SteerproofError(
            f"a password has {_SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} characters; "
            f"this has {len(password)}"
        )
    path = open_board(board_dir)
    with usable(board_dir), transaction(path) as db:
        db.execute(
            "INSERT INTO user VALUES (?,?,?) ON CONFLICT (name) DO UPDATE SET password = "
            "excluded.password",
            (name, _hasher.hash(password), now()),
        )
        db.execute("DELETE FROM session WHERE user = ?", (name,))


def remove_user(board_dir: Path, name: str) -> None:
    """Remove a user: sessions and tokens end; what they wrote stays, under their name.

    Raises:
        SteerproofError: There is no such user.
    """
    path = open_board(board_dir)
    with usable(board_dir), transaction(path) as db:
        db.execute("DELETE FROM session WHERE user = ?", (name,))
        db.execute("UPDATE token SET revoked = ? WHERE user = ? AND revoked IS NULL", (now(), name))
        if not db.execute("DELETE FROM user WHERE name = ?", (name,)).rowcount:
            raise SteerproofError(f"there is no user {shown(name)} on this board")


def has_users(path: Path) -> bool:
    """Whether anybody has a password."""
    return select_one(path, "SELECT 1 FROM user WHERE password IS NOT NULL LIMIT 1") is not None


def owner_name(login: str) -> str:
    """A board name for the login of whoever starts the board."""
    name = re.sub(r"[^a-z0-9._-]", "-", login.lower()).lstrip("-._0123456789")[:32]
    return name or "owner"


def check_password(path: Path, name: str, password: str) -> bool:
    """Whether this is the user's password; takes as long for a name that does not exist."""
    row = select_one(path, "SELECT password FROM user WHERE name = ?", name)
    known = row.password if row is not None and row.password else _dummy()
    try:
        _hasher.verify(known, password[:_LONGEST_PASSWORD])
    except (VerificationError, InvalidHashError):
        return False
    return row is not None and bool(row.password)


def new_token() -> str:
    """A random value that nobody can guess."""
    return secrets.token_urlsafe(32)


def open_session(path: Path, name: str) -> str:
    """Sign a user in; return the cookie's token."""
    token = new_token()
    with transaction(path) as db:
        db.execute("INSERT OR IGNORE INTO user VALUES (?, NULL, ?)", (name, now()))
        db.execute("DELETE FROM session WHERE expires < ?", (time.time(),))
        expires = time.time() + SESSION_SECONDS
        db.execute("INSERT INTO session VALUES (?,?,?)", (secret_digest(token), name, expires))
    return token


def session_user(path: Path, token: str | None) -> str | None:
    """Who a cookie belongs to; none if it is unknown or too old."""
    if not token:
        return None
    row = select_one(
        path,
        "SELECT user FROM session JOIN user ON user.name = session.user "
        "WHERE digest = ? AND expires > ?",
        secret_digest(token),
        time.time(),
    )
    return None if row is None else row.user


def close_session(path: Path, token: str) -> None:
    """Sign out: the cookie is worth nothing afterwards."""
    with transaction(path) as db:
        db.execute("DELETE FROM session WHERE digest = ?", (secret_digest(token),))


def form_secret(path: Path) -> bytes:
    """The board's secret for form tokens, made once."""
    with transaction(path) as db:
        db.execute("INSERT OR IGNORE INTO secret VALUES ('form', ?)", (secrets.token_bytes(32),))
        (kept,) = db.execute("SELECT value FROM secret WHERE name = 'form'").fetchone()
    if not isinstance(kept, bytes):
        raise sqlite3.DatabaseError("the secret of its forms is none")
    return kept


def form_token(secret: bytes, cookie: str) -> str:
    """The token that a form of this session (or visit) must carry."""
    return hmac.new(secret, cookie.encode(), hashlib.sha256).hexdigest()


def right_token(secret: bytes, cookie: str, offered: str) -> bool:
    """Whether a form carries the right token, compared in constant time."""
    return hmac.compare_digest(form_token(secret, cookie).encode(), offered.encode())


_dummy_hash: list[str] = []


def _dummy() -> str:
    if not _dummy_hash:
        _dummy_hash.append(_hasher.hash(secrets.token_urlsafe(16)))
    return _dummy_hash[0]
