"""Write the pages that are made from the code: every field, command and public name.

python tools/reference.py
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import typer

import steerproof
from steerproof.cli import app
from steerproof.spec.reference import fields_page

DOCS = Path(__file__).parents[1] / "docs"
_HEAD = """# Every command

Made by `python tools/reference.py` from the command line itself; `steerproof COMMAND --help` says
the same.
"""
_NAMES = """# From Python

The public names, `import steerproof as sp`. What is not here is inside, and may change. The
[notebooks](notebooks/index.md) use them.
"""


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
