"""Proposals: a Markdown file with front matter, or the text of a proposal as it was written.

Front matter (YAML between `---` lines): `title, number, kind, parent, lineage, tags, status,
experiment`, all optional. Without it, and without Markdown headings, the text is read as a page
copied from a tracker: a line such as `#342Proposed`, the title, `kind:`, `Parent:`, then
paragraphs, short lines that are headings, and `•` lists. The text is kept as given; only its
rendering is derived.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerproof.errors import ExperimentError
from steerproof.limits import whole_file
from steerproof.spec.problems import shown
from steerproof.spec.yaml_tree import UnreadableError, read_tree

LONGEST = 200_000
"""Largest proposal, in bytes."""
_LONGEST_LINE = 500
"""Longest title, kind and list of tags, in characters."""
STATUSES = ("proposed", "planned", "on_hold", "running", "judged", "cancelled", "archived")
"""Columns of the board, in the order of an experiment's life."""

_KEYS = {"title", "number", "kind", "parent", "lineage", "tags", "status", "experiment"}
_HEADER = re.compile(rf"#(\d{{1,6}})\W*({'|'.join(STATUSES)})?\s*$", re.IGNORECASE)
_REFERENCES = re.compile(r"#(\d{1,6})\b")
_ATX = re.compile(r"^ {0,3}#{1,6}\s", re.MULTILINE)
_EMPTY_BOX = re.compile(r"^(Timeline|Comments)\s*·\s*0(\s+\w+)?$", re.IGNORECASE)
_BULLET = re.compile(r"^\s*[•‣◦·*-]\s+")
_FIELD = re.compile(r"^(kind|tags)\s*:\s*(.+)$", re.IGNORECASE)
_LABEL = re.compile(r"^([^.:?!]{2,70}(?:\([^)]*\))?[^.:?!]{0,20}):\s+(?=\S)")
_INLINE = re.compile(r"([\\`*_\[\]<>])")
_BLOCK = re.compile(r"^(#{1,6}(?=\s|$)|[+=|~-]|\d+(?=[.)]))")


@dataclass(slots=True)
class _Header:
    """Fields gathered from the first lines of a page text, as a `Proposal` has them."""

    title: str = ""
    number: int | None = None
    status: str = "proposed"
    kind: str = "experiment"
    tags: tuple[str, ...] = ()
    body: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a proposal says about itself, and its text as Markdown."""

    title: str
    """One line."""
    markdown: str
    """Body, without title and header fields."""
    text: str
    """The file as given."""
    number: int | None = None
    """Its number, if it names one."""
    kind: str = "experiment"
    """What sort of work it is."""
    parent: int | None = None
    """Number of the experiment it follows from."""
    lineage: tuple[int, ...] = ()
    """Further ancestors that it names."""
    tags: tuple[str, ...] = ()
    """Words to filter by."""
    status: str = "proposed"
    """The status it claims; the board derives the real one."""
    experiment: str | None = None
    """Experiment file beside it, or a shipped name."""


def read_proposal(path: Path) -> Proposal:
    """Read a proposal file.

    Raises:
        ExperimentError: The file is missing, too long, not UTF-8, or has wrong front matter.
    """
    try:
        raw = whole_file(path)
    except OSError as error:
        raise ExperimentError(f"cannot read the proposal {path}: {error.strerror}") from error
    if len(raw) > LONGEST:
        raise ExperimentError(f"{path} has {len(raw)} bytes; a proposal has at most {LONGEST}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is not UTF-8 text (byte {error.start})") from error
    return parse_proposal(text, source=str(path))


def parse_proposal(text: str, *, source: str = "the proposal") -> Proposal:
    """Parse a proposal's text, in either form.

    Raises:
        ExperimentError: It is empty or its front matter is wrong.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if not any(line.strip() for line in lines):
        raise ExperimentError(f"{source} is empty; write a title and what you want to know")
    if lines[0].strip() == "---":
        return _checked(_from_front_matter(text, lines, source), source)
    if _ATX.search(text):
        return _checked(_from_markdown(text, lines, {}), source)
    return _checked(_from_page(text, lines), source)


def body_of(text: str) -> str:
    """The Markdown of a proposal without its header; all of a text that is none."""
    try:
        return parse_proposal(text).markdown
    except ExperimentError:
        return text


def _checked(proposal: Proposal, source: str) -> Proposal:
    """The proposal, if its short texts can be shown and kept."""
    texts = {"title": proposal.title, "kind": proposal.kind, "tags": ", ".join(proposal.tags)}
    if not proposal.title:
        raise ExperimentError(
            f"{source}: the title is empty; write one line that says what is asked"
        )
    for name, value in texts.items():
        if len(value) > _LONGEST_LINE:
            raise ExperimentError(
                f"{source}: {name} has {len(value)} characters; at most {_LONGEST_LINE}"
            )
    for name, value in (*texts.items(), ("the text", proposal.text)):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(value[error.start]):04X}"
            raise ExperimentError(f"{source}: {name} holds half of a character ({half})") from None
    return proposal


def _from_front_matter(text: str, lines: list[str], source: str) -> Proposal:
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    if end is None:
        raise ExperimentError(f"{source}: the front matter has no closing '---' line")
    values = _read_yaml("\n".join(lines[1:end]), source)
    if not isinstance(values, dict):
        raise ExperimentError(f"{source}: the front matter must be 'key: value' lines")
    unknown = sorted(str(key) for key in values if key not in _KEYS)
    if unknown:
        raise ExperimentError(
            f"{source}: unknown front matter {', '.join(unknown)}; "
            f"allowed: {', '.join(sorted(_KEYS))}"
        )
    return _from_markdown(text, lines[end + 1 :], _typed(values, source))


def _read_yaml(text: str, source: str) -> object:
    """The front matter's plain values, under the bounds on depth and aliases of any YAML here."""
    if not text.strip():
        return {}
    try:
        tree = read_tree(text)
    except UnreadableError as error:
        wrong = (error.position, error.message)
    else:
        if not tree.complaints:
            return tree.data
        wrong = tree.complaints[0]
    position, message = wrong
    # The line of dashes before it is the file's first.
    raise ExperimentError(
        f"{source}: line {position.line + 1}, column {position.column}: front matter: {message}"
    )


def _typed(values: dict[str, Any], source: str) -> dict[str, Any]:
    typed: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        if key in ("number", "parent"):
            typed[key] = _reference(value, key, source)
        elif key == "lineage":
            listed = value if isinstance(value, list) else [value]
            typed[key] = tuple(_reference(item, key, source) for item in listed)
        elif key == "tags":
            listed = value if isinstance(value, list) else str(value).split(",")
            typed[key] = tuple(str(tag).strip() for tag in listed if str(tag).strip())
        elif key == "status" and str(value).lower() not in STATUSES:
            raise ExperimentError(
                f"{source}: status {shown(value)}; allowed: {', '.join(STATUSES)}"
            )
        else:
            typed[key] = str(value).strip()
    return typed


def _reference(value: Any, key: str, source: str) -> int:
    digits = str(value).strip().removeprefix("#")
    # Counted before it is converted: Python refuses thousands of digits.
    if not re.fullmatch(r"0{0,6}[1-9][0-9]{0,5}", digits):
        raise ExperimentError(f"{source}: {key} {shown(value)} must be a number such as 267")
    return int(digits)


def _from_markdown(text: str, lines: list[str], values: dict[str, Any]) -> Proposal:
    body = list(lines)
    if "title" not in values:
        first = next((i for i, line in enumerate(body) if line.strip()), None)
        if first is None:
            raise ExperimentError("the proposal has no text")
        values = {**values, "title": re.sub(r"^\s*#{1,6}\s+|\s+#+\s*$", "", body[first]).strip()}
        del body[: first + 1]
    return Proposal(markdown="\n".join(body).strip() + "\n", text=text, **values)


def _from_page(text: str, lines: list[str]) -> Proposal:
    header = _read_header([line.strip() for line in lines])
    first_lines = "\n".join(header.body[:6])
    parent = re.search(r"\bParent:\s*#(\d{1,6})", first_lines)
    lineage = re.search(r"\bLineage:(.*)", first_lines)
    return Proposal(
        title=header.title,
        markdown=_page_markdown(header.body),
        text=text,
        number=header.number,
        kind=header.kind,
        parent=int(parent[1]) if parent else None,
        lineage=tuple(int(n) for n in _REFERENCES.findall(lineage[1])) if lineage else (),
        tags=header.tags,
        status=header.status,
    )


def _read_header(lines: list[str]) -> _Header:
    """Number, status, title and kind from the top; the rest is the body."""
    header = _Header()
    start = 0
    for index, line in enumerate(lines[:6]):
        match = _HEADER.search(line)
        if match and len(line) < 80:
            header.number = int(match[1])
            header.status = (match[2] or "proposed").lower()
            start = index + 1
            break
    for index in range(start, len(lines)):
        line = lines[index]
        named = _FIELD.match(line)
        if not line:
            continue
        if not header.title:
            header.title = line
        elif named and named[1].lower() == "kind":
            header.kind = named[2].strip()
        elif named:
            header.tags = tuple(t.strip() for t in named[2].split(",") if t.strip())
        else:
            header.body = lines[index:]
            break
    return header


def _page_markdown(lines: list[str]) -> str:
    """Markdown of plain paragraphs, heading lines and bullets."""
    paragraphs = [p for p in re.split(r"\n\s*\n", "\n".join(lines)) if p.strip()]
    blocks: list[str] = []
    skip = 0
    for index, paragraph in enumerate(paragraphs):
        rows = [row.strip() for row in paragraph.strip().split("\n")]
        if len(rows) == 1 and _EMPTY_BOX.match(rows[0]):
            skip = 2  # the tracker's empty timeline or comment box, and the line that says so
        if skip:
            skip -= 1
        elif len(rows) == 1 and index + 1 < len(paragraphs) and _is_heading(rows[0]):
            blocks.append(f"## {_escape(rows[0])}")
        else:
            blocks.append("\n".join(_row(row) for row in rows))
    return "\n\n".join(blocks) + "\n"


def _row(row: str) -> str:
    bullet = _BULLET.match(row)
    text = row[bullet.end() :] if bullet else row
    label = _LABEL.match(text)
    rest = _escape(text[label.end() :]) if label else _escape(text)
    shown = f"**{_escape(label[1])}:** {rest}" if label else rest
    return f"- {shown}" if bullet else _BLOCK.sub(_escape_block, shown)


def _escape_block(match: re.Match[str]) -> str:
    # A list number is broken before its dot: `1\\.`; anything else before itself.
    return match[0] + "\\" if match[0].isdigit() else "\\" + match[0]


def _is_heading(line: str) -> bool:
    return (
        len(line) <= 90
        and line[0].isupper()
        and not _BULLET.match(line)
        and not line.endswith((".", "?", "!", ":", ";", ","))
        and ": " not in line.split("(")[0]
    )


def _escape(text: str) -> str:
    return _INLINE.sub(r"\\\1", text)
