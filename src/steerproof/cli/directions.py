"""The `steerproof directions` command: import, export, show, extract."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerproof.cli.output import Device, Json, Source, say
from steerproof.errors import SteerproofError
from steerproof.text import clean

if TYPE_CHECKING:  # the help needs no torch
    from rich.table import Table

    from steerproof.exchange.direction import Direction

app = typer.Typer(
    help="Directions in the formats of the field.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
FileOrRun = Annotated[
    Path, typer.Argument(help=".safetensors, .pt, .gguf, .json (vllm-lens), or a run directory.")
]
Model = Annotated[
    str | None,
    typer.Option(help="The model that it is for: directory, hub id or shipped name."),
]
Revision = Annotated[str | None, typer.Option(help="Commit of a hub id, 40 hex digits.")]
Name = Annotated[str | None, typer.Option(help="Persona, trait or concept; default all.")]
Layer = Annotated[int | None, typer.Option(help="0-based block; default all.")]
Rows = Annotated[
    str | None,
    typer.Option(
        help="What layer numbers stand for, if the file does not tell: block or hidden_states."
    ),
]
Out = Annotated[Path, typer.Option(help="The file to write.")]


@app.command("import")
def import_file(
    file: FileOrRun,
    out: Out,
    model: Model = None,
    revision: Revision = None,
    name: Annotated[str | None, typer.Option(help="Its name, if the file has none.")] = None,
    layer: Annotated[int | None, typer.Option(help="0-based block, if the file has none.")] = None,
    rows: Rows = None,
    as_json: Json = False,
) -> None:
    """Read somebody's file and write steerproof's own.

    With all that is known of it.
    """
    from steerproof.exchange.files import export

    read = _read(file, (model, revision), name=name, layer=layer, rows=rows)
    _write(export(read, "steerproof", out))
    say(_plain(read), as_json, lambda: _table(read))


@app.command("export")
def export_file(
    file: FileOrRun,
    out: Out,
    to: Annotated[
        str,
        typer.Option(help="steerproof, gguf, persona-vectors, vllm-lens or easysteer."),
    ] = "steerproof",
    name: Name = None,
    layer: Layer = None,
    strength: Annotated[
        str, typer.Option(help="What an engine multiplies by: c=+2, or ratio=+0.2.")
    ] = "c=+1",
    kind: Annotated[str, typer.Option(help="Of a run: centroid or a control.")] = ("centroid"),
    model: Model = None,
    revision: Revision = None,
) -> None:
    """Write directions in a format that others read."""
    from steerproof.exchange.direction import pick
    from steerproof.exchange.files import FORMATS, export
    from steerproof.spec.strength import Strength

    if to not in FORMATS:
        raise SteerproofError(f"no format {to!r}; there are: {', '.join(FORMATS)}")
    picked = pick(_read(file, (model, revision), kind=kind), name=name, layer=layer)
    try:
        asked = Strength.parse(strength)
    except ValueError as error:
        raise SteerproofError(str(error)) from None
    numbers = {one.coefficient(asked) for one in picked}
    if len(numbers) > 1:
        raise SteerproofError(
            f"{strength} is another coefficient for each of {len(picked)} directions; choose one"
            " with --name and --layer, or give a coefficient"
        )
    written = export(picked, to, out, numbers.pop())
    _write(written)
    say(None, False, lambda: clean("\n".join(str(path) for path in written)))


@app.command()
def show(
    file: FileOrRun,
    model: Model = None,
    revision: Revision = None,
    name: Name = None,
    layer: Layer = None,
    rows: Rows = None,
    as_json: Json = False,
) -> None:
    """What a file holds, what is known of it, and what is not."""
    from steerproof.exchange.direction import pick

    picked = pick(_read(file, (model, revision), name=name, layer=layer, rows=rows), layer=layer)
    say(_plain(picked), as_json, lambda: _table(picked))


@app.command()
def extract(
    experiment: Source,
    out: Out,
    layers: Annotated[
        list[int] | None, typer.Option("--layer", help="0-based block; default the experiment's.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Extract the directions of an experiment, and nothing else."""
    from steerproof.exchange.extracted import extracted
    from steerproof.exchange.files import export
    from steerproof.exchange.shape import shape_of
    from steerproof.run.commands.basemodel import load_model
    from steerproof.run.driver.workers import choose_device
    from steerproof.run.graph.environment import Place, model_path
    from steerproof.spec.yaml_io import load_experiment
    from steerproof.study.directions import prompts_of
    from steerproof.study.geometry import geometry

    loaded = load_experiment(experiment)
    asked = loaded.experiment
    path, revision = model_path(asked, loaded.directory), asked.model.revision
    base = load_model(asked, Place(directory=loaded.directory, device=choose_device(device)))
    chosen = layers or asked.steered_layers
    measured = geometry(base, prompts_of(asked), chosen, asked.drawing_seed)
    directions = tuple(extracted(measured.values(), asked, shape_of(path, revision)))
    _write(export(directions, "steerproof", out))
    say(_plain(directions), as_json, lambda: _table(directions))


def _read(
    place: Path, model: tuple[str | None, str | None], *, kind: str = "centroid", **how: Any
) -> tuple["Direction", ...]:
    """The directions of a file, or of a run directory."""
    from steerproof.exchange.files import read_directions
    from steerproof.exchange.shape import shape_of

    if place.is_dir():
        return _of_run(place, kind)
    if how.get("rows") not in (None, "block", "hidden_states"):
        raise SteerproofError(f"--rows {how['rows']}: allowed are block and hidden_states")
    shape = None if model[0] is None else shape_of(model[0], model[1])
    return read_directions(place, shape, **how)


def _of_run(run: Path, kind: str) -> tuple["Direction", ...]:
    """The directions that a run has extracted."""
    from steerproof.exchange.extracted import extracted
    from steerproof.exchange.shape import shape_of
    from steerproof.run.artefacts.directions import from_unit
    from steerproof.run.commands.session import to_go_on
    from steerproof.run.graph.environment import model_path
    from steerproof.run.graph.survey import recorded
    from steerproof.run.store.registration import SPEC, kept_directory
    from steerproof.spec.experiment import CONTROL_KINDS
    from steerproof.spec.yaml_io import load_experiment

    kinds = ("centroid", *CONTROL_KINDS)
    if kind not in kinds:
        raise SteerproofError(f"--kind {kind}: allowed are {', '.join(kinds)}")
    loaded = load_experiment(run / SPEC)
    asked = loaded.experiment
    units = [stored for unit, stored in recorded(run).items() if unit.kind == "directions"]
    if not units:
        raise SteerproofError(f"{run} has no finished directions; go on with: {to_go_on(run)}")
    shape = shape_of(model_path(asked, kept_directory(run)), asked.model.revision)
    return tuple(extracted(map(from_unit, units), asked, shape, kind))


def _write(files: dict[Path, bytes]) -> None:
    from steerproof.run.store.files import write_file

    for path, content in files.items():
        write_file(path, content)


def _plain(directions: tuple["Direction", ...]) -> list[dict[str, Any]]:
    """What is known of each, and its norm; the numbers themselves are in the file."""
    from steerproof.codec import plain

    return [
        {
            "name": one.name,
            "layer": one.layer,
            "hidden_size": len(one.vector),
            "norm": one.norm,
            "operation": "add",
            "hook": "block output",
            **plain(one.provenance),
            "unknown": list(one.provenance.unknown()),
        }
        for one in directions
    ]


def _table(directions: tuple["Direction", ...]) -> "Table":
    """A line for each direction, and one line for what all of them share."""
    from rich.table import Table

    shared = [
        f"{key.replace('_', ' ')}: {value}"
        for key, value in _shared(directions).items()
        if key not in ("name", "layer", "norm", "unknown", "source")
    ]
    table = Table(caption=clean("\n".join(shared)), caption_justify="left")
    for column in ("name", "block", "norm", "baseline norm", "read from"):
        right = "norm" in column
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for one in directions:
        source, h_bar = one.provenance.source, one.provenance.h_bar
        table.add_row(
            clean(one.name),
            str(one.layer),
            f"{one.norm:.4g}",
            "unknown" if h_bar is None else f"{h_bar:.4g}",
            "the model" if source is None else clean(f"{source.file}, {source.place}"),
        )
    return table


def _shared(directions: tuple["Direction", ...]) -> dict[str, Any]:
    """What is the same for all of them; what no source said is `unknown`."""
    first, *rest = _plain(directions)
    same = {k: v for k, v in first.items() if all(other[k] == v for other in rest)}
    said = {k: ", ".join(v) if isinstance(v, list) else v for k, v in same.items()}
    return {k: "unknown" if v is None else v for k, v in said.items()}
