"""Tokens of the read-only API: shown once, kept as hashes, ended by whoever made them."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from steerproof.board.database import now, secret_digest, select, select_one, transaction
from steerproof.errors import SteerproofError

PREFIX = "steerproof_"
LONGEST_NAME = 60
MOST = 50
"""Tokens of one user that are not revoked."""
_USED_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, without its secret."""

    id: int
    name: str
    """What it is for, in its maker's words."""
    created: str
    """ISO 8601, as `used` and `revoked`."""
    used: str | None
    """When it was last used, to the minute."""
    revoked: str | None


def create(path: Path, user: str, name: str) -> str:
    """Make a token; the text that is returned is kept nowhere.

    Raises:
        SteerproofError: No name, or too many tokens.
    """
    words = " ".join(name.split())
    if not 0 < len(words) <= LONGEST_NAME:
        raise SteerproofError(f"say what the token is for, in 1 to {LONGEST_NAME} characters")
    secret = PREFIX + secrets.token_urlsafe(32)
    with transaction(path) as db:
        alive = "SELECT COUNT(*) FROM token WHERE user = ? AND revoked IS NULL"
        if db.execute(alive, (user,)).fetchone()[0] >= MOST:
            raise SteerproofError(f"you have {MOST} tokens: revoke one first")
        db.execute(
            "INSERT INTO token (digest, name, user, created) VALUES (?,?,?,?)",
            (secret_digest(secret), words, user, now()),
        )
    return secret


def tokens(path: Path, user: str) -> tuple[Token, ...]:
    """The user's tokens, newest first."""
    query = "SELECT id, name, created, used, revoked FROM token WHERE user = ? ORDER BY id DESC"
    return tuple(Token(**row._asdict()) for row in select(path, query, user))


def revoke(path: Path, user: str, number: int) -> None:
    """End one of one's own tokens.

    Raises:
        SteerproofError: It is nobody's, or another's.
    """
    with transaction(path) as db:
        done = db.execute(
            "UPDATE token SET revoked = COALESCE(revoked, ?) WHERE id = ? AND user = ?",
            (now(), number, user),
        )
        if not done.rowcount:
            raise SteerproofError("you have no such token")


def owner(path: Path, secret: str) -> str | None:
    """Whose token it is; none where it is unknown, revoked, or its user was removed."""
    if not secret.startswith(PREFIX) or len(secret) > 200:
        return None
    row = select_one(
        path,
        "SELECT token.id, token.user, used FROM token JOIN user ON user.name = token.user "
        "WHERE digest = ? AND revoked IS NULL",
        secret_digest(secret),
    )
    if row is None:
        return None
    if row.used is None or _age(row.used) > _USED_SECONDS:
        with transaction(path) as db:
            db.execute("UPDATE token SET used = ? WHERE id = ?", (now(), row.id))
    return row.user


def _age(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
