"""Notebooks executed without Jupyter: the sources of their cells, one after another."""

import ast
import json
from pathlib import Path
from typing import Any


def sources(notebook: Path) -> list[str]:
    """The code of a notebook, cell by cell."""
    held = json.loads(notebook.read_text("utf-8"))
    assert held["nbformat"] == 4
    return ["".join(cell["source"]) for cell in held["cells"] if cell["cell_type"] == "code"]


def execute(code: str, names: dict[str, Any]) -> Any:
    """Run a cell in a namespace; gives the value of its last line, as a notebook shows it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def shown(value: object) -> str:
    """What a notebook shows of a value."""
    html = getattr(value, "_repr_html_", None)
    return html() if html else repr(value)
