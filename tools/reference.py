"""Write the pages that are made from the code: every field, command and public name.

python tools/reference.py
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

import steerproof
from steerproof.cli import app
from steerproof.spec.schema import json_schema

DOCS = Path(__file__).parents[1] / "docs"
_HEAD = """# Every command

Made by `python tools/reference.py` from the command line itself; `steerproof COMMAND --help` says
the same.
"""
_NAMES = """# From Python

The public names, `import steerproof as sp`. What is not here is inside, and may change. The
[notebooks](notebooks/index.md) use them.
"""
_FIELDS = """# Every field of the experiment

Made by `python tools/reference.py` from the records in `src/steerproof/spec/`. A field without a
default has to be written. `steerproof schema` prints the same as JSON Schema, for editors.
"""
_BOUNDS = (
    ("minimum", "at least {}"), ("exclusiveMinimum", "above {}"),
    ("maximum", "at most {}"), ("exclusiveMaximum", "below {}"),
    ("minItems", "{} or more"), ("minLength", "{} or more characters"),
    ("maxLength", "at most {} characters"),
)  # fmt: skip
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": "letters, digits, `_`, `-`",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": "letters, digits, `.`, `_`, `-`",
    r"^[0-9a-f]{40}$": "40 hex digits",
    r"^(none|(c|ratio)=([+-]\d+(?:\.\d+)?))$": "`none`, `c=+2`, `ratio=-0.2`",
}
_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false"}


def commands_page() -> str:
    """Every command with its arguments and options, in Markdown."""
    root = typer.main.get_command(app)
    return "\n".join([_HEAD, *_sections(root, "steerproof")])


def names_page() -> str:
    """Every public name, for mkdocstrings to fill in."""
    parts = [_NAMES]
    for name in steerproof.__all__:
        module = getattr(steerproof, name).__module__
        options = f"    options:\n      heading: sp.{name}\n      heading_level: 2\n"
        parts.append(f"::: {module}.{name}\n{options}")
    return "\n".join(parts)


def pages() -> Mapping[Path, str]:
    """Every page that is made, by its file."""
    return {DOCS / "reference.md": fields_page(), DOCS / "commands.md": commands_page(),
            DOCS / "api.md": names_page()}  # fmt: skip


def fields_page() -> str:
    """The page, in Markdown: a table for each record, the experiment first."""
    schema = json_schema()
    records = {"Experiment": schema, **schema["$defs"]}
    parts = [_FIELDS]
    for name, record in records.items():
        if "properties" in record:
            where = _places(name, records)
            parts += [f"## {name}\n", f"{_one_line(record.get('description', ''))}{where}\n"]
            parts.append("\n".join(_table(record)) + "\n")
    return "\n".join(parts)


def _places(name: str, records: Mapping[str, Any]) -> str:
    """Where a record stands: ` (at `model`)`."""
    target = f"#/$defs/{name}"
    places = [
        f"`{field}`" if owner == "Experiment" else f"`{field}` of {owner}"
        for owner, record in records.items()
        for field, value in record.get("properties", {}).items()
        if target in json.dumps(value)
    ]
    return f" At {', '.join(places)}." if places else ""


def _table(record: Mapping[str, Any]) -> Iterator[str]:
    needed = record.get("required", ())
    yield "| field | what it is | default | meaning |"
    yield "|---|---|---|---|"
    for name, value in record["properties"].items():
        default = "needed" if name in needed else _default(value.get("default"))
        meaning = _one_line(value.get("description", ""))
        yield f"| `{name}` | {_escaped(_kind(value))} | {_escaped(default)} | {_escaped(meaning)} |"


def _default(value: Any) -> str:
    """As YAML would hold it; a record's own defaults are in its own table."""
    return "its own" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def _kind(value: Mapping[str, Any]) -> str:
    """The type in words, with its bounds."""
    if "$ref" in value:
        return f"[{value['$ref'].rpartition('/')[2]}](#{value['$ref'].rpartition('/')[2].lower()})"
    if "anyOf" in value:
        return " or ".join(_kind(one) for one in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    kind = value.get("type")
    if kind == "null":
        return "`null`"
    if kind == "array":
        words = f"list of {_kind(value['items'])}"
    elif kind == "object":
        inner = value.get("additionalProperties") or next(
            iter(value.get("patternProperties", {}).values()), {}
        )
        words = f"mapping to {_kind(inner)}" if inner else "mapping"
    else:
        words = _KINDS.get(str(kind), "any")
    bounds = [said.format(value[bound]) for bound, said in _BOUNDS if bound in value]
    bounds += (
        [_PATTERNS.get(value["pattern"], "spelt so: `{}`".format(value["pattern"]))]
        if "pattern" in value
        else []
    )
    return f"{words} ({', '.join(bounds)})" if bounds else words


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _sections(command: object, path: str) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    for name, one in sorted(inner.items()):
        if getattr(one, "commands", {}):
            yield from _sections(one, f"{path} {name}")
            continue
        told = [p for p in one.params if p.name != "help"]
        yield f"## {path} {name}\n"
        yield f"{' '.join((one.help or '').split())}\n"
        if told:
            yield "| argument or option | default | meaning |\n|---|---|---|"
            yield "\n".join(_row(one) for one in told) + "\n"


def _row(parameter: object) -> str:
    option = getattr(parameter, "param_type_name", "") == "option"
    names = [*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())]
    spelt = ", ".join(f"`{name}`" for name in names) if option else f"`{names[0].upper()}`"
    needed = getattr(parameter, "required", False)
    default = getattr(parameter, "default", None)
    shown = "needed" if needed else "" if default in (None, False, ()) else f"`{default}`"
    meaning = " ".join((getattr(parameter, "help", "") or "").split())
    return f"| {spelt} | {shown} | {meaning} |".replace("`True`", "yes")


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, "utf-8")
