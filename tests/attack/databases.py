"""Ways to damage an SQLite file: its bytes, and what its rows hold, whatever guards them."""

import json
import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from tests.attack.mutations import VALUES, mutated_bytes


def damaged_database(file: Path, chance: random.Random) -> str:
    """Change a database's bytes, or put another value into one column."""
    if chance.random() < 0.5:
        file.write_bytes(mutated_bytes(file.read_bytes(), chance))
        return "bytes"
    return odd_value(file, chance)


def odd_value(file: Path, chance: random.Random) -> str:
    """Put another value into a column: of all rows, or of one where they cannot be alike.

    What the database itself would refuse is done too: triggers are dropped first, and checks are
    left out. A value that SQLite has no way to keep leaves the file as it was.
    """
    with (
        closing(sqlite3.connect(file)) as rows,
        suppress(sqlite3.Error, OverflowError, UnicodeEncodeError),
    ):
        for (trigger,) in rows.execute(_TRIGGERS).fetchall():
            rows.execute(f"DROP TRIGGER {trigger}")
        rows.execute("PRAGMA ignore_check_constraints = ON")
        tables = [name for (name,) in rows.execute(_TABLES).fetchall()]
        table = chance.choice([name for name in tables if _any(rows, name)])
        column = chance.choice([row[1] for row in rows.execute(f"PRAGMA table_info({table})")])
        value = chance.choice(VALUES)
        value = json.dumps(value) if isinstance(value, list | dict) else value
        value = b"\xff\xfe" if chance.random() < 0.2 else value
        if chance.random() < 0.5:
            rows.execute(f'UPDATE {table} SET "{column}" = ?', (value,))
        else:
            (old,) = chance.choice(rows.execute(f'SELECT "{column}" FROM {table}').fetchall())
            rows.execute(f'UPDATE {table} SET "{column}" = ? WHERE "{column}" IS ?', (value, old))
        rows.commit()
        return f"{table}.{column}"
    return "a value that cannot be kept"


def _any(rows: sqlite3.Connection, table: str) -> bool:
    return rows.execute(f"SELECT 1 FROM {table}").fetchone() is not None


_TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
