"""Arguments in, exit code out. Nothing else in the package prints.

People read standard output; progress and errors go to standard error; `--json` gives one value.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

import steerproof
from steerproof import tables
from steerproof.cli import adapters, before, directions, starting, taken, waiting
from steerproof.cli import board as boarding
from steerproof.cli import sweep as sweeping
from steerproof.cli.output import (
    INTERRUPTED,
    Device,
    Json,
    RunDir,
    Set,
    Source,
    Where,
    complain,
    fill_streams,
    flush,
    forget_odd_sizes,
    keep_own_rights,
    refusal,
    require_place,
    say,
)
from steerproof.errors import AbsentModelError, SteerproofError
from steerproof.surroundings import require_threads, threads_of_numbers
from steerproof.text import clean

if TYPE_CHECKING:
    from steerproof.run.artefacts.verdict import RunVerdict
    from steerproof.run.commands.session import Session

app = typer.Typer(
    name="steerproof",
    help="Does a language model read a direction in its activations, or only its prompt?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(starting.init)
app.command()(starting.schema)
app.add_typer(directions.app, name="directions")
app.add_typer(adapters.app, name="adapters")


def main() -> None:
    """The `steerproof` command: every planned error becomes its exit code and one message."""
    fill_streams()
    keep_own_rights()
    forget_odd_sizes()
    _answer_signals(_interrupted)
    atexit.register(_answer_signals, signal.SIG_IGN)  # first in, last out
    try:
        require_threads("numpy", threads_of_numbers())
        if words := waiting.WORDS.get(next(iter(sys.argv[1:]), "")):
            waiting.begin(words)
        try:
            app()
        finally:
            flush()
    except SteerproofError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        told = refusal(error)
        if told is None:
            raise
        complain(str(told))
        sys.exit(told.exit_code)
    except KeyboardInterrupt:  # a second signal, while the first was being seen to
        sys.exit(INTERRUPTED)
    finally:
        _answer_signals(_at_once)  # an error in the middle of what runs at exit would be shown


def _answer_signals(answer: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """What the signals that end a program do from now on.

    While the interpreter takes itself down they do nothing: the exit code is settled by then, and
    Python would give them back their own, which is to end without one. What whoever started us
    chose to ignore (`nohup` does) stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, answer)


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    _answer_signals(_at_once)
    complain("interrupted; finished units are kept, and the same command goes on")
    raise SystemExit(INTERRUPTED)


def _at_once(_signal: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _say_verdict(verdict: "RunVerdict | None", place: Path, as_json: bool) -> None:
    """Print verdict.json, or its head in words."""

    def words() -> str:
        if verdict is None:
            return "no verdict: there is no finished analysis"
        text = tables.verdict_text(verdict.answers, place)
        why = verdict.exploratory
        return text if why is None else f"{text}\n  exploratory, {clean(why)}: it confirms nothing"

    say(verdict, as_json, words)


def _session(
    experiment: str,
    directory: Path | None,
    device: str = "cpu",
    settings: list[str] | None = None,
    inputs: Path | None = None,
) -> "Session":
    """The session of an experiment file, or of a run directory given in its place."""
    from steerproof.run.commands.session import new_session, session_in
    from steerproof.run.store.registration import SPEC
    from steerproof.spec.settings import directory_name, parse_setting
    from steerproof.spec.yaml_io import load_experiment

    asked = [parse_setting(text) for text in settings or ()]
    if directory is None and (Path(experiment) / SPEC).is_file():
        session = session_in(Path(experiment), device, asked, inputs)
    elif inputs is not None:
        raise SteerproofError("--inputs is of a run directory; an experiment's file has its own")
    else:
        loaded = load_experiment(experiment)
        name = loaded.experiment.name + (f",{directory_name(asked)}" if asked else "")
        session = new_session(loaded, directory or Path("runs") / name, device, asked)
    for change in session.changes:
        typer.echo(clean(f"set {change}"), err=True)
    return session


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"steerproof {steerproof.__version__}\n")
        raise typer.Exit
    require_place()


@app.command()
def run(
    experiment: Source,
    directory: Where = None,
    settings: Set = None,
    device: Device = "auto",
    executor: Annotated[str, typer.Option(help="local, ray or inline.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Workers; default one a GPU, or a core.")
    ] = None,
    deviate: Annotated[str | None, typer.Option(help="Go on although it differs: why.")] = None,
    steal: Annotated[bool, typer.Option(help="Take over from a process that is gone.")] = False,
    strict: Annotated[bool, typer.Option(help="Let serious objections block the run.")] = False,
    inputs: Annotated[
        Path | None, typer.Option(help="Of a run directory: where its model and files are now.")
    ] = None,
    device_hours: Annotated[
        float | None,
        typer.Option(help="Stop when all tries together used so many hours of GPUs (or cores)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Do what is missing, then the verdict and the report. The same command resumes."""
    from steerproof.progress import following
    from steerproof.run.commands.inputs import require_inputs
    from steerproof.run.commands.session import run_experiment
    from steerproof.run.driver.allowance import Allowance
    from steerproof.run.driver.workers import choose_device

    allowance = None if device_hours is None else Allowance(hours=device_hours)
    chosen = choose_device(device)
    session = _session(experiment, directory, chosen, settings, inputs)
    session = replace(session, allowance=allowance)
    require_inputs(session)
    hands = sweeping.executor_of(session, executor, chosen, workers)
    waiting.end()
    with following(sys.stderr, session.experiment.title, session.run) as show:
        summary, verdict = run_experiment(
            session, hands, listen=show, deviate=deviate, steal=steal, strict=strict
        )
    if summary.stopped:
        why = allowance.words if allowance is not None and allowance.reached else "stopped"
        complain(f"{why}; finished units are kept. To go on: {session.command}")
        raise SystemExit(INTERRUPTED)
    _say_verdict(verdict, session.run, as_json)


app.command()(sweeping.sweep)


@app.command()
def report(directory: RunDir, as_json: Json = False) -> None:
    """Rebuild the report from the units that are finished."""
    from steerproof.run.commands.concluding import rebuild_report
    from steerproof.run.commands.session import session_in

    session = session_in(directory)
    verdict = rebuild_report(session)
    if verdict is None:
        raise SteerproofError(f"no finished analysis in {directory}; go on with: {session.command}")
    _say_verdict(verdict, directory, as_json)


app.command()(taken.figures)
app.command()(taken.completions)
app.command()(taken.requests)


@app.command()
def analyze(
    rates: Annotated[Path, typer.Argument(help="A rate table, rates.csv.")],
    experiment: Source,
    arm: Annotated[str | None, typer.Option(help="Arm that the verdict is about.")] = None,
    registered: Annotated[
        bool, typer.Option("--registered", help="The registered rule alone, as it was.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The three answers to a rate table, without a model.

    As registered, the ranking, the direction.
    """
    from steerproof.codec import plain
    from steerproof.decide.analysis.analyze import analyze as judge
    from steerproof.decide.analysis.answers import conclude
    from steerproof.decide.analysis.rates_csv import read_rates
    from steerproof.spec.yaml_io import load_experiment

    asked = load_experiment(experiment).experiment
    table = read_rates(rates, asked)
    if registered:
        analysis, answers = judge(table, asked, arm=arm), None
        value = plain(analysis)
    else:
        analysis, answers = conclude(table, asked, arm=arm)
        value = {**plain(analysis), "answers": plain(answers)}
    say(value, as_json, lambda: tables.analysis_table(analysis, answers))


@app.command()
def status(
    directory: RunDir,
    units: Annotated[
        str | None, typer.Option(metavar="KIND", help="Name the units of a kind, or of all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What a run directory says of itself."""
    from steerproof.run.commands.status import status as look
    from steerproof.run.commands.status import units_of

    if units is not None:
        named = units_of(directory, units).items()
        say(dict(named), as_json, lambda: clean("\n".join(f"{s:<11} {u}" for u, s in named)))
    else:
        told = look(directory)
        say(told, as_json, lambda: tables.status_table(told))


@app.command()
def explain(directory: RunDir, unit: str, as_json: Json = False) -> None:
    """Why a unit is, or is not, reused.

    Which input changed, old and new value.
    """
    from steerproof.run.commands.explain import explain as why
    from steerproof.run.commands.explain import find_unit, told_changes
    from steerproof.run.commands.session import registered_graph, session_in

    graph = registered_graph(session_in(directory))
    reason = why(directory, graph, find_unit(graph, unit))
    head = f"{'reused' if reason.reused else 'to be done'}: {reason.reason}"
    lines = [head, *(f"  {line}" for line in (*told_changes(reason.changes), *reason.damage))]
    say(reason, as_json, lambda: clean("\n".join(lines)))


@app.command()
def verify(directory: RunDir, as_json: Json = False) -> None:
    """Hash every file again, and compare.

    Exit code 7 if one is not what its manifest says.
    """
    from steerproof.run.commands.session import to_go_on
    from steerproof.run.commands.verify import raise_mismatches
    from steerproof.run.commands.verify import verify as rehash

    mismatches = rehash(directory)
    if as_json:
        say(mismatches, as_json, str)
    raise_mismatches(mismatches, to_go_on(directory))
    if not as_json:
        say(None, as_json, lambda: f"every file in {directory} matches its recorded hash")


@app.command()
def lock(
    experiment: Source,
    directory: Where = None,
    settings: Set = None,
    markdown: Annotated[bool, typer.Option(help="Print the text of a registration.")] = False,
    as_json: Json = False,
) -> None:
    """Register the experiment without running it."""
    from steerproof.decide.analysis.kills import conditions
    from steerproof.run.commands.session import graph_of, lock_session
    from steerproof.run.store.directory import open_run
    from steerproof.spec.registration import markdown as registration_text

    session = _session(experiment, directory, settings=settings)
    with open_run(session.run, session.command) as held:
        locked = lock_session(session, graph_of(session), held).lock
    text = f"registered {locked.sha256} at {locked.time} in {session.run}"
    say(
        {"sha256": locked.sha256, "time": locked.time, "dir": str(session.run)},
        as_json,
        lambda: registration_text(locked, kills=conditions) if markdown else text,
    )


app.command()(before.doctor)
app.command()(starting.fetch)


app.command()(before.power)
app.command()(boarding.propose)
app.command()(boarding.board)
app.command("add-user")(boarding.add_user)
app.command("remove-user")(boarding.remove_user)


app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})(before.bench)


@app.command()
def plan(
    experiment: Source,
    directory: Where = None,
    settings: Set = None,
    device: Device = "auto",
    strict: Annotated[bool, typer.Option(help="Exit 2 if an objection is serious.")] = False,
    trial: Annotated[
        bool, typer.Option(help="Time a short trial if nothing was timed here yet.")
    ] = True,
    as_json: Json = False,
) -> None:
    """What it takes, what is done, what a reviewer would object to."""
    from steerproof.run.commands.evidence import refuse_serious
    from steerproof.run.commands.planning import plan_run
    from steerproof.run.commands.session import planned_graph
    from steerproof.run.driver.workers import choose_device

    session = _session(experiment, directory, choose_device(device), settings)
    graph, absent = planned_graph(session)
    asked = (session.experiment, graph, session.run, session.place)
    known = plan_run(*asked, absent=absent)
    if trial and not as_json and known.plan.hours is None:
        # What needs no model comes at once; what a trial adds comes when it has ended.
        say(known, False, lambda: tables.plan_tables(known))
    if trial and absent is not None:
        raise AbsentModelError(absent)
    planned = plan_run(*asked, trial=waiting.tell) if trial else known
    say(planned, as_json, lambda: tables.plan_tables(planned))
    if strict:
        refuse_serious(planned.objections)
