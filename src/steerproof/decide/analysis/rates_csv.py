"""`rates.csv`: the exchange format of the rate table, read with every problem found at once."""

import csv
import difflib
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from steerproof.decide.analysis.rates import RateRow, RateTable, table_of
from steerproof.errors import ExperimentError
from steerproof.limits import whole_file
from steerproof.spec.experiment import DirectionKind, Experiment, Operation, PromptKind, Tokens
from steerproof.spec.grid import Cell
from steerproof.spec.strength import NONE, Strength

COLUMNS = (
    "arm",
    "persona",
    "prompt",
    "direction",
    "layer",
    "strength",
    "coefficient",
    "question",
    "fired",
    "total",
)
"""Header of `rates.csv` in writing order; reading takes any order."""
_FURTHER = ("direction_of", "prompt_of", "draw", "tokens", "operation", "seed")
"""Columns that follow where some cell uses them; empty where a cell does not."""
_NEEDED_FOR = {"direction_of": "direction", "prompt_of": "prompt"}
"""What must be there for somebody else's to be named."""

# With a point where a table of numbers with gaps was written by a program that has no whole ones.
_WHOLE = re.compile(r"^\d{1,9}(\.0*)?$", re.ASCII)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_PROBLEMS_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Names that a table may use."""

    arms: tuple[str, ...]
    personas: tuple[str, ...]
    bridge_arm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One line as it stands there, a text a column; a further column that is absent is empty."""

    number: int
    arm: str
    persona: str
    prompt: str
    direction: str
    layer: str
    strength: str
    coefficient: str
    question: str
    fired: str
    total: str
    direction_of: str = ""
    prompt_of: str = ""
    draw: str = ""
    tokens: str = ""
    operation: str = ""
    seed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problems:
    """Everything wrong with one file, each with its line."""

    path: Path
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Note a problem; reading goes on to find the others."""
        self.found.append((line, text))

    def raise_if_any(self) -> None:
        """Raise all of them as one error."""
        if not self.found:
            return
        lines = [f"{self.path}:{line}: {text}" for line, text in sorted(self.found)]
        more = len(lines) - _PROBLEMS_SHOWN
        if more > 0:
            lines = [*lines[:_PROBLEMS_SHOWN], f"... and {more} more"]
        raise ExperimentError("\n".join(lines))


def read_rates(path: Path, experiment: Experiment) -> RateTable:
    """Read and check a rate table against an experiment.

    Args:
        path: CSV file with the columns `COLUMNS`.
        experiment: Says which arms and personas exist, and which arm is the bridge.

    Raises:
        ExperimentError: Every problem found, one per line, each with `file:line`.
    """
    known = _Known(
        arms=tuple(arm.name for arm in experiment.arms),
        personas=tuple(persona.name for persona in experiment.personas),
        bridge_arm=experiment.analysis.bridge_arm,
    )
    problems = _Problems(path=path)
    rows: list[tuple[int, RateRow]] = []
    for line in _lines(_text(path), problems):
        row = _row(line, known, problems)
        if row is not None:
            rows.append((line.number, row))
    _check_cells(rows, problems)
    if not problems.found:  # a bad line can look like a missing cell: name the cause only
        _check_bridge(rows, known, problems)
    problems.raise_if_any()
    return table_of(row for _, row in rows)


def format_rates(rows: Iterable[RateRow]) -> str:
    """The table as CSV text, one line per row, columns in the documented order."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = list(rows)
    used = {name for row in rows for name, value in _further(row.cell).items() if value is not None}
    more = [name for name in _FURTHER if name in used]
    writer.writerow((*COLUMNS, *more))
    for row in rows:
        cell = row.cell
        further = _further(cell)
        place = (cell.direction, "" if cell.layer is None else cell.layer, cell.strength)
        question = "" if row.question is None else row.question
        counts = (f"{row.coefficient:.9g}", question, row.fired, row.total)
        ends = ("" if further[name] is None else further[name] for name in more)
        writer.writerow((cell.arm, cell.persona, cell.prompt, *place, *counts, *ends))
    return out.getvalue()


def _further(cell: Cell) -> dict[str, str | int | None]:
    """What tells a cell apart besides `COLUMNS`, by column."""
    values = (cell.of, cell.prompt_of, cell.draw, cell.tokens, cell.operation, cell.seed)
    return dict(zip(_FURTHER, values, strict=True))


def _text(path: Path) -> str:
    try:
        data = whole_file(path)
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ExperimentError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the table as UTF-8"
        ) from error


def _lines(text: str, problems: _Problems) -> Iterator[_Line]:
    """The lines; a wrong header or a wrong number of fields is noted."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not _header_is_right(header, problems):
            return
        start = reader.line_num + 1
        for fields in reader:
            if len(fields) == len(header):
                values = (value.strip() for value in fields)
                yield _Line(number=start, **dict(zip(header, values, strict=True)))
            elif fields:
                problems.add(start, f"{len(fields)} fields, but the header has {len(header)}")
            start = reader.line_num + 1
    except csv.Error as error:
        problems.add(reader.line_num, f"not CSV: {error}")


def _header_is_right(header: Sequence[str], problems: _Problems) -> bool:
    missing = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in (*COLUMNS, *_FURTHER)]
    twice = sorted({name for name in header if header.count(name) > 1})
    if (other := _separator(header)) is not None:
        problems.add(1, f"{other}; save the table as CSV with commas and decimal points")
        return False
    for what, names in (("missing", missing), ("unknown", unknown), ("repeated", twice)):
        if names:
            listed = ", ".join(repr(name) for name in names)
            columns = f"{','.join(COLUMNS)}, and where they are used {','.join(_FURTHER)}"
            problems.add(1, f"{what} columns: {listed}; the columns are {columns}")
    return not (missing or unknown or twice)


def _separator(header: Sequence[str]) -> str | None:
    """What a header that is no list with commas looks like."""
    if header and header[0].lower().startswith("sep="):
        return (
            "the first line says how the table is separated, as a spreadsheet's program writes it"
        )
    if len(header) == 1:
        for mark, name in _SEPARATORS.items():
            if header[0].count(mark) >= len(COLUMNS) - 1:
                return f"the columns are separated by {name}"
    return None


def _row(line: _Line, known: _Known, problems: _Problems) -> RateRow | None:
    """One checked row, or None when something in it is wrong (all of it noted)."""
    before = len(problems.found)
    strength = _strength(line, problems)
    cell = _cell(line, strength, known, problems)
    coefficient = _coefficient(line, strength, problems)
    fired = _whole("fired", line.fired, line, problems)
    total = _whole("total", line.total, line, problems)
    if total == 0:
        problems.add(line.number, "total is 0; a cell that was not measured has no row")
    elif fired is not None and total is not None and fired > total:
        problems.add(line.number, f"fired {fired} is more than total {total}")
    if len(problems.found) > before or cell is None or fired is None or total is None:
        return None
    question = line.question or None
    return RateRow(cell=cell, coefficient=coefficient, question=question, fired=fired, total=total)


def _cell(
    line: _Line, strength: Strength | None, known: _Known, problems: _Problems
) -> Cell | None:
    """Which cell a line is of, or None when something in it is wrong (all of it noted)."""
    before = len(problems.found)
    arm = _word("arm", line.arm, known.arms, line, problems)
    persona = _word("persona", line.persona, known.personas, line, problems)
    prompt = _word("prompt", line.prompt, get_args(PromptKind), line, problems)
    direction = _word("direction", line.direction, get_args(DirectionKind), line, problems)
    layer = _layer(line, problems)
    of = _persona("direction_of", line.direction_of, line, known, problems)
    prompt_of = _persona("prompt_of", line.prompt_of, line, known, problems)
    draw = _number("draw", line.draw, line, problems)
    seed = _number("seed", line.seed, line, problems)
    tokens = _unusual("tokens", line.tokens, get_args(Tokens), line, problems)
    operation = _unusual("operation", line.operation, get_args(Operation), line, problems)
    if strength is None or len(problems.found) > before:
        return None
    return Cell(
        arm=arm,
        persona=persona,
        prompt=prompt,
        direction=direction,
        layer=layer,
        strength=strength,
        of=of,
        prompt_of=prompt_of,
        draw=draw,
        tokens=tokens,
        operation=operation,
        seed=seed,
    )


def _persona(column: str, name: str, line: _Line, known: _Known, problems: _Problems) -> str | None:
    """Another persona's name; None where the column is absent, empty, or names the row's own."""
    if not name:
        return None
    _word(column, name, known.personas, line, problems)
    needs = _NEEDED_FOR[column]
    needed = line.direction if needs == "direction" else line.prompt
    if needed in ("none", "neutral"):
        problems.add(line.number, f"{column} {name!r} with {needs} {needed!r}; leave it empty")
    return None if name == line.persona else name


def _word(column: str, word: str, words: Sequence[Any], line: _Line, problems: _Problems) -> Any:
    """A word that must be one of these; what it is besides them is noted."""
    if word not in words:
        near = difflib.get_close_matches(word, words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        problems.add(line.number, f"{column} {word!r} is not one of {', '.join(words)}{hint}")
    return word


def _unusual(column: str, word: str, words: Sequence[Any], line: _Line, problems: _Problems) -> Any:
    """One of the words; None where the column is absent, empty, or says the first, the usual."""
    return _word(column, word, words, line, problems) if word not in ("", words[0]) else None


def _number(column: str, text: str, line: _Line, problems: _Problems) -> int | None:
    return _whole(column, text, line, problems) if text else None


def _whole(column: str, text: str, line: _Line, problems: _Problems) -> int | None:
    if _WHOLE.match(text):
        return int(text.partition(".")[0])
    problems.add(line.number, f"{column} {text!r} must be a whole number from 0 to 999999999")
    return None


def _layer(line: _Line, problems: _Problems) -> int | None:
    if line.direction == "none":
        if line.layer:
            problems.add(line.number, f"layer {line.layer!r} without a direction; leave it empty")
        return None
    if not line.layer:
        problems.add(line.number, f"direction {line.direction!r} needs a layer (0-based block)")
        return None
    return _whole("layer", line.layer, line, problems)


def _strength(line: _Line, problems: _Problems) -> Strength | None:
    try:
        strength = Strength.parse(line.strength)
    except ValueError as error:
        problems.add(line.number, str(error))
        return None
    if (strength == NONE) != (line.direction == "none"):
        problems.add(
            line.number,
            f"strength {str(strength)!r} with direction {line.direction!r}: "
            "either both are 'none' or neither",
        )
        return None
    return strength


def _coefficient(line: _Line, strength: Strength | None, problems: _Problems) -> float:
    """The number used; it must agree with what the strength says of it."""
    text = line.coefficient
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        problems.add(line.number, f"coefficient {text!r} must be a finite number")
    elif strength is not None:
        number = strength.number
        if strength.kind == "ratio" and value * number <= 0:
            wrong = f"coefficient {text} has not the sign of strength {strength}"
            problems.add(line.number, wrong)
        elif strength.kind != "ratio" and not math.isclose(value, number, rel_tol=1e-6):
            wrong = f"coefficient {text} with strength {strength} must be {number:g}"
            problems.add(line.number, wrong)
    return value


def _check_cells(rows: Sequence[tuple[int, RateRow]], problems: _Problems) -> None:
    """Every (cell, question) once; a cell has questions or a total; one coefficient per cell."""
    seen: dict[tuple[Cell, str | None], int] = {}
    first: dict[Cell, tuple[int, RateRow]] = {}
    for line, row in rows:
        start, head = first.setdefault(row.cell, (line, row))
        earlier = seen.setdefault((row.cell, row.question), line)
        if earlier != line:
            what = "" if row.question is None else f", question {row.question!r}"
            problems.add(line, f"cell {row.cell.name}{what} is already on line {earlier}")
        elif (row.question is None) != (head.question is None):
            problems.add(
                line, f"cell {row.cell.name} has both a total and questions (line {start})"
            )
        elif row.coefficient != head.coefficient:
            problems.add(
                line,
                f"cell {row.cell.name} has coefficient {row.coefficient:g} here and "
                f"{head.coefficient:g} on line {start}",
            )


def _check_bridge(rows: Sequence[tuple[int, RateRow]], known: _Known, problems: _Problems) -> None:
    """Somebody must have a bridge.

    A persona without one, or without any row, is missing and not malformed: one adapter that failed
    must not cost the others their verdict, and the analysis says who is missing.
    """
    bridge = (known.bridge_arm, "persona", NONE)
    cells = {row.cell for _, row in rows}
    if not any((c.arm, c.prompt, c.strength) == bridge and c.plain for c in cells):
        wanted = f"arm {known.bridge_arm}, prompt persona, direction none, strength none"
        problems.add(1, f"no bridge: the table has no row with {wanted}")
