"""Arguments in, exit code out. Nothing else in the package prints.

People read standard output; progress and errors go to standard error; `--json` replaces the text
on standard output by one JSON value.
"""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import steerproof
from steerproof.errors import SteerproofError
from steerproof.text import clean

INTERRUPTED = 130

app = typer.Typer(
    name="steerproof",
    help="Does a language model read a direction in its activations, or only its prompt?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Source = Annotated[str, typer.Argument(help="Path of an experiment file, or a shipped name (zlt).")]
RunDir = Annotated[Path, typer.Argument(help="A run directory.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON value on standard output.")]
Where = Annotated[Path | None, typer.Option("--dir", help="Run directory; default runs/NAME.")]
Device = Annotated[str, typer.Option(help="A torch device: cpu, cuda, cuda:1; auto picks.")]


def main() -> None:
    """The `steerproof` command: every planned error becomes its exit code and one message."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        app()
    except SteerproofError as error:
        _complain(str(error))
        sys.exit(error.exit_code)


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    _complain("interrupted; finished units are kept, and the same command goes on")
    raise SystemExit(INTERRUPTED)


def _complain(text: str) -> None:
    sys.stderr.write(f"error: {clean(text)}\n")


def _say(value: Any, as_json: bool, human: Callable[[], object]) -> None:
    """Print a value as JSON, or what `human` makes of it."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        return
    shown = human()
    console = Console(highlight=False, soft_wrap=isinstance(shown, str))
    console.print(shown, markup=False)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"steerproof {steerproof.__version__}\n")
        raise typer.Exit


@app.command()
def run(
    experiment: Source,
    directory: Where = None,
    device: Device = "auto",
    executor: Annotated[str, typer.Option(help="local, ray or inline.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Workers; default one, or one a GPU.")] = None,
    deviate: Annotated[str | None, typer.Option(help="Go on although it differs: why.")] = None,
    steal: Annotated[bool, typer.Option(help="Take over from a process that is gone.")] = False,
    as_json: Json = False,
) -> None:
    """Do what is missing, then the verdict and the report. The same command resumes."""
    from steerproof.progress import following
    from steerproof.run.session import new_session, run_experiment
    from steerproof.run.workers import choose_device, make_executor
    from steerproof.spec.yaml_io import load_experiment

    loaded = load_experiment(experiment)
    place = directory or Path("runs") / loaded.experiment.name
    chosen = choose_device(device)
    session = new_session(loaded, place, chosen)
    hands = make_executor(executor, place, chosen, workers)
    with following(sys.stderr, loaded.experiment.title) as listen:
        summary, verdict = run_experiment(
            session, hands, listen=listen, deviate=deviate, steal=steal
        )
    if summary.stopped:
        _complain(f"stopped; finished units are kept. To go on: {session.command}")
        raise SystemExit(INTERRUPTED)
    _say(verdict, as_json, lambda: _verdict_text(verdict or {}, place))


def _verdict_text(verdict: dict[str, Any], place: Path) -> str:
    arm = verdict["arms"][verdict["arm"]]["primary"]
    rho = "undefined" if arm["rho"] is None else f"{arm['rho']:+.2f}"
    bounds = arm["interval"]
    interval = "no interval" if bounds is None else f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}]"
    return "\n".join(
        [
            f"{verdict['verdict']}: {verdict['reason']}",
            f"  {verdict['reading']}",
            f"  rho = {rho} {interval}, arm {verdict['arm']}, {arm['n']} personas",
            f"  report: {place / 'results' / 'report.html'}",
        ]
    )


@app.command()
def report(directory: RunDir, as_json: Json = False) -> None:
    """Rebuild the report of a run directory from its finished units."""
    from steerproof.run.session import SPEC, new_session, rebuild_report
    from steerproof.spec.yaml_io import load_experiment

    session = new_session(load_experiment(directory / SPEC), directory)
    verdict = rebuild_report(session)
    if verdict is None:
        raise SteerproofError(f"no finished analysis in {directory}; go on with: {session.command}")
    _say(verdict, as_json, lambda: _verdict_text(verdict, directory))


@app.command()
def analyze(
    rates: Annotated[Path, typer.Argument(help="A rate table, rates.csv.")],
    experiment: Source,
    arm: Annotated[str | None, typer.Option(help="Arm that the verdict is about.")] = None,
    as_json: Json = False,
) -> None:
    """The registered analysis of a rate table, without a model."""
    from steerproof.decide.analysis import analyze as judge
    from steerproof.decide.rates_csv import read_rates
    from steerproof.decide.records import to_json
    from steerproof.spec.yaml_io import load_experiment

    asked = load_experiment(experiment).experiment
    found = to_json(judge(read_rates(rates, asked), asked, arm=arm))
    _say(found, as_json, lambda: _analysis_table(found))


def _analysis_table(found: dict[str, Any]) -> Table:
    table = Table(
        title=f"{found['verdict']}: {found['reason']}",
        caption=found["reading"],
        title_justify="left",
    )
    for column in ("arm", "strength", "rho", "interval", "leave one out", "p", "passes", "kills"):
        table.add_column(column)
    for name, arm in found["arms"].items():
        fired = [kill for kill, value in arm["kills"].items() if value["fired"]]
        for level in ("primary", "co_primary"):
            one = arm[level]
            if one is None:
                continue
            table.add_row(
                name if level == "primary" else "",
                one["strength"],
                _number(one["rho"]),
                _bounds(one["interval"]),
                _bounds(one["leave_one_out"]),
                _number(one["permutation_p"], "{:.4f}"),
                {True: "yes", False: "no", None: "undecided"}[one["passes"]],
                ", ".join(fired) if level == "primary" else "",
            )
    return table


def _number(value: float | None, form: str = "{:+.3f}") -> str:
    return "undefined" if value is None else form.format(value)


def _bounds(value: list[float] | None) -> str:
    return "none" if value is None else f"[{value[0]:+.2f}, {value[1]:+.2f}]"
