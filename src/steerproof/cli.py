"""Arguments in, exit code out. Nothing else in the package prints.

People read standard output; progress and errors go to standard error; `--json` replaces the text
on standard output by one JSON value.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table

import steerproof
from steerproof.errors import MachineError, SteerproofError
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
    workers: Annotated[int | None, typer.Option(help="Workers; default one a GPU, or a core.")] = None,
    deviate: Annotated[str | None, typer.Option(help="Go on although it differs: why.")] = None,
    steal: Annotated[bool, typer.Option(help="Take over from a process that is gone.")] = False,
    strict: Annotated[bool, typer.Option(help="Let serious objections block the run.")] = False,
    mirror: Annotated[
        list[str] | None, typer.Option(help="Copy the timeline: tensorboard, wandb, mlflow.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do what is missing, then the verdict and the report. The same command resumes."""
    from steerproof.progress import following
    from steerproof.model.files import weight_bytes
    from steerproof.run.mirrors import mirrored
    from steerproof.run.session import new_session, run_experiment
    from steerproof.run.units import model_directory
    from steerproof.run.workers import choose_device, make_executor
    from steerproof.spec.yaml_io import load_experiment

    loaded = load_experiment(experiment)
    place = directory or Path("runs") / loaded.experiment.name
    chosen = choose_device(device)
    session = new_session(loaded, place, chosen)
    weights = weight_bytes(model_directory(loaded.experiment, loaded.directory))
    hands = make_executor(executor, place, chosen, workers, weights)
    with (
        mirrored(place, mirror or (), _complain) as copy,
        following(sys.stderr, loaded.experiment.title) as show,
    ):
        summary, verdict = run_experiment(
            session,
            hands,
            listen=lambda event, progress: (show(event, progress), copy(event, progress))[0],
            deviate=deviate,
            steal=steal,
            strict=strict,
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


@app.command()
def status(directory: RunDir, as_json: Json = False) -> None:
    """What a run directory says of itself."""
    from steerproof.decide.records import plain
    from steerproof.run.inspection import status as look

    found = look(directory)
    _say(plain(_texts(found)), as_json, lambda: _status_table(found))


def _texts(value: Any) -> Any:
    """A record whose paths are texts, for JSON."""
    import dataclasses

    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _texts(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _texts(item) for key, item in value.items()}
    return [_texts(item) for item in value] if isinstance(value, list | tuple) else value


def _status_table(found: Any) -> Table:
    seconds = found.totals.seconds
    table = Table(title=f"{found.state}; {seconds:.0f} s of work in {found.totals.attempts} tries")
    states = sorted({state for kinds in found.units.values() for state in kinds})
    table.add_column("unit")
    for state in states:
        table.add_column(state, justify="right")
    for kind, counts in found.units.items():
        table.add_row(kind, *(str(counts.get(state, "")) for state in states))
    for failure in found.failures:
        table.add_row(clean(f"{failure.unit}: {failure.error} (log: {failure.log})"))
    return table


@app.command()
def explain(directory: RunDir, unit: str, as_json: Json = False) -> None:
    """Why a unit is, or is not, reused: which input changed, old and new value."""
    from steerproof.run.inspection import explain as why
    from steerproof.run.session import graph_of

    found = why(directory, graph_of(_session_in(directory)), unit)
    lines = [f"{'reused' if found.reused else 'to be done'}: {found.reason}"]
    lines += [f"  {one}" for one in (*found.changes, *found.damage)]
    _say(_texts(found), as_json, lambda: clean("\n".join(lines)))


@app.command()
def verify(directory: RunDir, as_json: Json = False) -> None:
    """Hash every file again; exit code 7 if one is not what its manifest says."""
    from steerproof.run.inspection import raise_mismatches
    from steerproof.run.inspection import verify as rehash

    mismatches = rehash(directory)
    if as_json:
        _say([_texts(one) for one in mismatches], as_json, str)
    raise_mismatches(mismatches, f"steerproof run {directory / 'experiment.yaml'}")
    if not as_json:
        _say(None, as_json, lambda: f"every file in {directory} matches its recorded hash")


def _session_in(directory: Path) -> Any:
    from steerproof.run.session import SPEC, new_session
    from steerproof.spec.yaml_io import load_experiment

    return new_session(load_experiment(directory / SPEC), directory)


@app.command()
def lock(
    experiment: Source,
    directory: Where = None,
    markdown: Annotated[bool, typer.Option(help="Print the text of a registration.")] = False,
    as_json: Json = False,
) -> None:
    """Register the experiment in its run directory without running it."""
    from steerproof.run.directory import open_run
    from steerproof.run.session import graph_of, new_session, register
    from steerproof.spec.registration import markdown as registration_text
    from steerproof.spec.yaml_io import load_experiment

    loaded = load_experiment(experiment)
    session = new_session(loaded, directory or Path("runs") / loaded.experiment.name)
    with open_run(session.run, session.command) as held:
        found, _ = register(session, graph_of(session), held, None)
    text = f"registered {found.sha256} at {found.time} in {session.run}"
    _say(
        {"sha256": found.sha256, "time": found.time, "dir": str(session.run)},
        as_json,
        lambda: registration_text(found) if markdown else text,
    )


@app.command()
def doctor(
    experiment: Source = "zlt",
    directory: Where = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Is this machine fit for an experiment? Exit 3 if not."""
    from dataclasses import asdict

    from steerproof.run.doctor import FAIL
    from steerproof.run.doctor import doctor as examine
    from steerproof.run.planning import describe_model, needs_of
    from steerproof.run.workers import choose_device
    from steerproof.spec.yaml_io import load_experiment

    loaded = load_experiment(experiment)
    place = directory or Path("runs") / loaded.experiment.name
    needs = needs_of(loaded, device)
    checks = examine(place, needs, lambda: describe_model(loaded, choose_device(device)))
    _say([asdict(check) for check in checks], as_json, lambda: _doctor_table(checks))
    unfit = [check.name for check in checks if check.level == FAIL]
    if unfit:
        raise MachineError(f"unfit for {loaded.experiment.name}: {', '.join(unfit)}")


def _doctor_table(checks: Sequence[Any]) -> Table:
    table = Table(show_header=False, box=None)
    for check in checks:
        text = f"{check.value}\n  -> {check.remedy}" if check.remedy else check.value
        table.add_row(check.level, check.name, clean(text))
    return table


@app.command()
def power(
    experiment: Source,
    simulations: Annotated[int, typer.Option(help="Simulated experiments per correlation.")] = 400,
    as_json: Json = False,
) -> None:
    """How often the verdict would be right and wrong, by simulation of the real decision."""
    from steerproof.decide.power import operating_characteristics, to_json, trial_of
    from steerproof.spec.yaml_io import load_experiment

    asked = load_experiment(experiment).experiment
    found = operating_characteristics(trial_of(asked, simulations=simulations))
    _say(to_json(found), as_json, lambda: _power_table(found))


def _power_table(found: Any) -> Table:
    least = found.minimum_detectable_rho
    table = Table(
        title="minimum detectable rho "
        + (f"{least:.2f}" if least is not None else f"none: {found.reason}"),
        caption=f"{found.trial.simulations} simulated experiments each, "
        f"{found.trial.iterations} bootstrap iterations inside each",
    )
    for column in ("true rho", "SUPPORTED", "REFUTED", "INCONCLUSIVE", "arm passes"):
        table.add_column(column, justify="right")
    for point in found.points:
        shares = [point.verdicts[v] for v in ("SUPPORTED", "REFUTED", "INCONCLUSIVE")]
        table.add_row(f"{point.rho:.2f}", *(f"{share:.1%}" for share in (*shares, point.passes)))
    return table


@app.command()
def propose(
    file: Annotated[Path, typer.Argument(help="Markdown with front matter, or a proposal's text.")],
    experiment: Annotated[str | None, typer.Option(help="Its experiment file or name.")] = None,
    board_dir: Annotated[Path, typer.Option(help="The board's own data.")] = Path("board"),
    as_json: Json = False,
) -> None:
    """Put a proposal on the board."""
    from steerproof.board.entries import propose as put

    entry = put(file, experiment, board_dir)
    text = f"#{entry.number} {entry.title}: proposed. See it with: steerproof board runs"
    _say(_texts(entry), as_json, lambda: clean(text))


@app.command()
def board(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run directories, or their parents.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8765,
    host: Annotated[str, typer.Option(help="Address; beyond loopback users must exist.")] = (
        "127.0.0.1"
    ),
    name: Annotated[list[str] | None, typer.Option(help="Another name of this host.")] = None,
    board_dir: Annotated[Path, typer.Option(help="The board's own data.")] = Path("board"),
) -> None:
    """The web page over run directories, on loopback."""
    from steerproof.board.server import serve

    serve(
        runs or [Path("runs")],
        board_dir,
        port=port,
        host=host,
        names=name or (),
        announce=lambda line: print(clean(line), flush=True),
    )


@app.command("add-user")
def add_user(
    name: str,
    board_dir: Annotated[Path, typer.Option(help="The board's own data.")] = Path("board"),
) -> None:
    """Create a user of the board, or give one a new password."""
    from steerproof.board.users import add_user as add

    password = typer.prompt("password", hide_input=True, confirmation_prompt=True)
    add(board_dir, name, password)
    _say(None, False, lambda: f"user {name} may sign in")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="statistics.")],
    as_json: Json = False,
) -> None:
    """Ours against named peers: same work, one process, the ratio last."""
    if what != "statistics":
        raise SteerproofError(f"no benchmark {what!r}; there is: statistics")
    from steerproof.bench.comparison import to_json
    from steerproof.bench.statistics import compare

    found = to_json(compare())
    lines = [found["work"], f"ours: {found['seconds']:.4g} s"]
    lines += [f"{p['name']}: {p['seconds']:.4g} s" for p in found["peers"]]
    _say(found, as_json, lambda: "\n".join([*lines, f"ratio: {found['ratio']:.1f}"]))


@app.command()
def plan(
    experiment: Source,
    directory: Where = None,
    device: Device = "auto",
    strict: Annotated[bool, typer.Option(help="Exit 2 if an objection is serious.")] = False,
    trial: Annotated[
        bool, typer.Option(help="Time a short trial if nothing was timed here yet.")
    ] = True,
    as_json: Json = False,
) -> None:
    """What it takes, how much is done, and what a careful reviewer would object to."""
    from steerproof.run.planning import objections_of, plan_json, refuse_serious
    from steerproof.run.session import graph_of, new_session
    from steerproof.run.survey import survey
    from steerproof.run.workers import choose_device
    from steerproof.spec.yaml_io import load_experiment

    loaded = load_experiment(experiment)
    place = directory or Path("runs") / loaded.experiment.name
    session = new_session(loaded, place, choose_device(device))
    graph = graph_of(session)
    found = plan_json(loaded.experiment, graph, place, session.place, timed=trial)
    _say(found, as_json, lambda: _plan_tables(found))
    if strict:
        refuse_serious(objections_of(loaded.experiment, survey(place, graph).reused)[0])


def _plan_tables(found: dict[str, Any]) -> Group:
    counts = found["counts"]
    work = Table(
        title=f"{counts['adapters']} adapters, {counts['cells']} cells, "
        f"{counts['completions']:,} completions, in {found['dir']}",
        caption="\n".join([*_estimates(found), *found["reasons"]]),
        caption_justify="left",
    )
    for column in ("work", "arm", "units", "to do", "each", "hours"):
        work.add_column(column, justify="left" if column in ("work", "arm") else "right")
    for line in found["table"]:
        work.add_row(
            line["work"],
            line["arm"],
            str(line["units"]),
            str(line["to_do"]),
            _range(line["each_seconds"], "{:.3g}", " s"),
            _range(line["total_hours"], "{:.2g}", ""),
        )
    review = Table(title="Objections", show_lines=True)
    for column in ("", "finding", "remedy"):
        review.add_column(column)
    for one in found["objections"]:
        review.add_row(one["severity"], one["finding"], one["remedy"])
    for text in found["not_yet_known"]:
        review.add_row("", text, "")
    return Group(work, review)


def _estimates(found: dict[str, Any]) -> list[str]:
    shown = [
        ("time", _range(found["hours"], "{:.2g}", " h")),
        ("GPU time", _range(found["gpu_hours"], "{:.2g}", " GPU-hours")),
        ("memory", _range(_scaled(found["memory_bytes"]), "{:.3g}", " GB")),
        ("disk", _range(_scaled(found["disk_bytes"]), "{:.3g}", " GB")),
    ]
    lines = [f"{name}: {text}" for name, text in shown if text]
    return [*lines, f"times from {found['source']}"] if found["source"] else lines


def _scaled(value: dict[str, float] | None) -> dict[str, float] | None:
    return value and {side: number / 1e9 for side, number in value.items()}


def _range(value: dict[str, float] | None, form: str, unit: str) -> str:
    if value is None:
        return ""
    low, high = form.format(value["low"]), form.format(value["high"])
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
