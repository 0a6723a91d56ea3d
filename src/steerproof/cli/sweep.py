"""The `steerproof sweep` command: many runs that share, one table and one figure over all."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerproof.cli import waiting
from steerproof.cli.output import INTERRUPTED, Device, Json, Set, Source, complain, say
from steerproof.errors import UnitsFailedError
from steerproof.text import clean

if TYPE_CHECKING:
    from steerproof.run.commands.session import Session
    from steerproof.run.driver.executors import Executor
    from steerproof.run.driver.summary import Listener


def sweep(
    experiment: Source,
    over: Annotated[
        list[str], typer.Option("--over", help="PLACE=V1,V2 or PLACE=0..4; again for another.")
    ],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Default runs/NAME-sweep; a run each below it.")
    ] = None,
    settings: Set = None,
    draws: Annotated[
        int, typer.Option(help="Random directions through the same selection; 0 for none.")
    ] = 19,
    device: Device = "auto",
    executor: Annotated[str, typer.Option(help="local, ray or inline.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Workers; default one a GPU, or a core.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would run; run nothing.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Run an experiment at many settings; exploratory. The same command resumes."""
    from steerproof import tables
    from steerproof.run.commands.sweep import foreseen, publish_sweep, read_sweep, sweep_sessions
    from steerproof.run.driver.workers import choose_device
    from steerproof.spec.settings import parse_setting
    from steerproof.spec.sweep import asked_runs, parse_axis
    from steerproof.spec.yaml_io import load_experiment

    chosen, loaded = choose_device(device), load_experiment(experiment)
    fixed = [parse_setting(text) for text in settings or ()]
    asked = asked_runs(loaded, [parse_axis(text) for text in over], draws, fixed)
    place = directory or Path("runs") / f"{loaded.experiment.name}-sweep"
    sessions = sweep_sessions(asked, place, chosen)
    ahead = foreseen(sessions)
    if plan:
        say(ahead, as_json, lambda: clean(ahead.words))
        return
    typer.echo(clean(ahead.words), err=True)
    failures = _run_all(sessions, lambda session: executor_of(session, executor, chosen, workers))
    waiting.begin("reading what the runs measured, drawing the sweep's figure")
    result = read_sweep(asked, sessions, failures, draws)
    publish_sweep(place, result)
    say(result, as_json, lambda: tables.sweep_tables(result, place))
    if failures:
        lines = [f"{run.name}: {said}" for run, said in failures.items()]
        raise UnitsFailedError("\n".join([f"{len(failures)} runs failed in part:", *lines]))


def _run_all(
    sessions: "Sequence[Session]", hands: "Callable[[Session], Executor]"
) -> "Mapping[Path, str]":
    """Do every run, with progress on stderr; returns what failed, by run. Stopping ends here."""
    from steerproof.progress import following
    from steerproof.run.commands.sweep import run_sweep

    waiting.end()

    def show(session: "Session", do: "Callable[[Listener], None]") -> None:
        with following(sys.stderr, session.run.name, session.run) as listener:
            do(listener)

    failures, stopped = run_sweep(sessions, hands, listen=show)
    if stopped:
        complain("stopped; finished units are kept, and the same command goes on")
        raise SystemExit(INTERRUPTED)
    return failures


def executor_of(session: "Session", name: str, device: str, workers: int | None) -> "Executor":
    """Who does the units of a session."""
    from steerproof.model.files import weight_bytes
    from steerproof.run.driver.workers import make_executor
    from steerproof.run.graph.environment import model_directory

    weights = weight_bytes(model_directory(session.experiment, session.place.directory))
    return make_executor(name, session.run, device, workers, weights)
