"""The `steerproof adapters` command: trained adapters as folders for others to load."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerproof.cli.output import Json, RunDir, say
from steerproof.errors import SteerproofError
from steerproof.text import clean

if TYPE_CHECKING:  # the help needs no pyarrow
    from steerproof.exchange.adapters import CardRate
    from steerproof.run.artefacts.score import Marks
    from steerproof.spec.experiment import Experiment
    from steerproof.spec.grid import AdapterId

app = typer.Typer(
    help="Adapters as PEFT folders with a model card.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _adapters() -> None:
    """A callback, so that the one command keeps its name."""


@app.command("export")
def export_adapters(
    run: RunDir,
    out: Annotated[Path, typer.Option(help="Directory to write; a folder for each adapter.")],
    arm: Annotated[str | None, typer.Option(help="One arm; default all.")] = None,
    persona: Annotated[str | None, typer.Option(help="One persona; default all.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's adapters as PEFT folders.

    OUT/ARM/PERSONA/ with PEFT's files, a card and steerproof.json.
    """
    from steerproof.engine.lora.peft_files import CONFIG, WEIGHTS
    from steerproof.exchange.adapters import adapter_folder, trained_as
    from steerproof.run.artefacts import score
    from steerproof.run.commands.session import session_in
    from steerproof.run.graph.names import SCORE, adapter_unit
    from steerproof.run.graph.survey import recorded
    from steerproof.run.store.files import write_files
    from steerproof.spec.grid import adapters

    experiment, finished = session_in(run).experiment, recorded(run)
    marks = score.from_unit(finished[SCORE]) if SCORE in finished else {}
    chosen = [
        one
        for one in adapters(experiment)
        if arm in (None, one.arm) and persona in (None, one.persona)
        if adapter_unit(one) in finished
    ]
    if not chosen:
        names = ", ".join(one.name for one in adapters(experiment))
        raise SteerproofError(f"{run} has no such finished adapter; the experiment has: {names}")
    written: list[str] = []
    for one in chosen:
        unit, folder = finished[adapter_unit(one)], out / one.arm / one.label
        peft = {name: unit.read(name) for name in (CONFIG, WEIGHTS)}
        rates = _rates(experiment, one, marks)
        told = trained_as(experiment, experiment.arm(one.arm), one.persona, rates)
        write_files(folder, adapter_folder(peft, told))
        written.append(str(folder))
    say(written, as_json, lambda: clean("\n".join(written)))


def _rates(
    experiment: "Experiment", adapter: "AdapterId", marks: "Marks"
) -> tuple["CardRate", ...]:
    """How often the marker fired in the adapter's cells along its own direction."""
    from steerproof.exchange.adapters import CardRate
    from steerproof.spec.grid import cells

    return tuple(
        CardRate(
            prompt=cell.prompt,
            strength=str(cell.strength),
            fired=sum(mark.fired for mark in marks[cell.name]),
            total=len(marks[cell.name]),
        )
        for cell in cells(experiment)
        if cell.adapter == adapter and cell.plain and marks.get(cell.name)
    )
