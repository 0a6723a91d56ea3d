"""What is taken out of a run: figures for a paper, texts for a judge, requests for an engine."""

from pathlib import Path
from typing import Annotated

import typer

from steerproof.cli.output import Json, RunDir, say
from steerproof.text import clean


def figures(
    directory: RunDir,
    kind: Annotated[str, typer.Option("--format", help="pdf, svg or png.")] = "pdf",
    width: Annotated[str, typer.Option(help="Of every figure: 3.4in, 86mm, 246pt.")] = "3.4in",
    out: Annotated[
        Path | None, typer.Option(help="Default figures-FORMAT in the run directory.")
    ] = None,
    as_json: Json = False,
) -> None:
    """A run's figures, their data and its numbers for a paper.

    The data of each figure as CSV, the main numbers for LaTeX.
    """
    from steerproof.run.commands.figures import figure_files, width_in_inches
    from steerproof.run.store.files import write_files

    files = figure_files(directory, kind, width_in_inches(width))
    place = out or directory / f"figures-{kind}"
    written = write_files(place, files)
    say(written, as_json, lambda: clean("\n".join(written)))


def completions(
    directory: RunDir,
    out: Annotated[Path, typer.Option(help="File to write: .jsonl, or .csv for spreadsheets.")],
    as_json: Json = False,
) -> None:
    """Every completion with its row id, for a judge.

    Without arm, persona or push, in no order.
    """
    from steerproof.run.commands.handed_out import handed_out
    from steerproof.run.store.files import make_directory, write_file

    content, count = handed_out(directory, out.suffix)
    make_directory(out.absolute().parent)
    write_file(out, content)
    text = f"{count} completions in {out}"
    say({"file": str(out), "completions": count}, as_json, lambda: clean(text))


def requests(
    directory: RunDir,
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    cell: Annotated[
        str | None, typer.Option(help="A cell's name, or a beginning of names; default all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The cells as requests for vLLM with vllm-lens.

    With adapter and direction of each; files alone.
    """
    from steerproof.run.commands.requests import requests_of
    from steerproof.run.commands.session import session_in
    from steerproof.run.store.files import write_files

    handed = requests_of(session_in(directory), cell)
    write_files(out, handed.files)
    lines = [f"{handed.cells} cells in {out}"]
    lines += [f"left out: {name}: {why}" for name, why in handed.left_out.items()]
    told = {"cells": handed.cells, "left_out": dict(handed.left_out), "dir": str(out)}
    say(told, as_json, lambda: clean("\n".join(lines)))
