"""One experiment in one run directory: register, do what is missing, publish."""

import platform
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from steerproof.errors import (
    AbsentModelError,
    ExperimentError,
    ModelError,
)
from steerproof.run.artefacts.verdict import RunVerdict
from steerproof.run.commands.ahead import Ahead
from steerproof.run.commands.basemodel import require_room
from steerproof.run.commands.evidence import evidence_of, refuse_serious
from steerproof.run.commands.preflight import (
    check_experiment,
    check_numbers,
    check_runnable,
    needs_model,
    refuse_untellable,
)
from steerproof.run.driver.allowance import Allowance
from steerproof.run.driver.executors import Executor, InlineExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.driver.summary import Listener, Summary, raise_failures
from steerproof.run.graph.environment import Place
from steerproof.run.graph.given_files import Known
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.names import ANSWERS, SCORE
from steerproof.run.graph.survey import recorded, survey
from steerproof.run.graph.units import experiment_graph
from steerproof.run.stages.inputs import ScoreInputs, inputs_from
from steerproof.run.store.borrow import borrow
from steerproof.run.store.directory import RunDirectory, open_run
from steerproof.run.store.ledger import LEDGER
from steerproof.run.store.registration import (
    SPEC,
    Registration,
    keep_copy,
    kept_directory,
    read_registration,
    register,
)
from steerproof.spec.changes import Change
from steerproof.spec.experiment import Experiment
from steerproof.spec.lock import Lock, make_lock, prompt_hashes
from steerproof.spec.settings import Setting, with_settings
from steerproof.spec.yaml_io import Loaded, load_experiment

if TYPE_CHECKING:
    from steerproof.run.commands.report_inputs import Groundwork

EVERY_STAGE = "steerproof.run.driver.every_stage"
"""What a worker imports while nothing is asked of it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is to be done, and where."""

    loaded: Loaded
    run: Path
    place: Place
    command: str
    """The command to type to go on."""
    changes: tuple[Change, ...] = ()
    """What was set beside the file."""
    others: tuple[Path, ...] = ()
    """Run directories whose units are taken over where they are the same."""
    allowance: Allowance | None = None
    """Cap on its device time."""

    @property
    def experiment(self) -> Experiment:
        """The experiment as resolved."""
        return self.loaded.experiment


def new_session(
    loaded: Loaded, run: Path, device: str = "cpu", settings: Sequence[Setting] = ()
) -> Session:
    """A session of an experiment in a run directory.

    Args:
        loaded: The experiment.
        run: Where.
        device: A torch device.
        settings: Fields that are set beside the file.

    Raises:
        ExperimentError: A setting does not fit.
    """
    asked, changes = with_settings(loaded, settings)
    return Session(
        loaded=asked,
        run=run,
        place=Place(directory=loaded.directory, device=device),
        command=to_go_on(loaded.path, "--dir", run, *_typed(settings)),
        changes=changes,
    )


def session_in(
    run: Path,
    device: str = "cpu",
    settings: Sequence[Setting] = (),
    inputs: Path | None = None,
) -> Session:
    """The session of a run directory: its own copy of the experiment, and where its paths start.

    Args:
        run: The run directory.
        device: A torch device.
        settings: Fields that are set beside the file.
        inputs: Where its relative paths start; none for where they started last.

    Raises:
        ExperimentError: It is no run directory, its copy of the experiment cannot be read, or a
            setting does not fit.
    """
    if not (run / SPEC).is_file():
        raise ExperimentError(f"{run} is not a run directory: it has no {SPEC}")
    asked, changes = with_settings(load_experiment(run / SPEC), settings)
    return Session(
        loaded=asked,
        run=run,
        place=Place(directory=inputs or kept_directory(run), device=device),
        command=to_go_on(run, *_typed(settings)),
        changes=changes,
    )


def to_go_on(*arguments: object) -> str:
    """The command to type: `steerproof run` with these arguments."""
    return shlex.join(("steerproof", "run", *map(_word, arguments)))


def _word(argument: object) -> str:
    """An argument as it is typed; a path that begins with a dash is no option."""
    word = str(argument)
    return f"./{word}" if isinstance(argument, Path) and word.startswith("-") else word


def _typed(settings: Sequence[Setting]) -> list[str]:
    return [word for setting in settings for word in ("--set", str(setting))]


def graph_of(session: Session) -> Graph:
    """The session's units.

    Raises:
        ModelError: The base model cannot be found.
        ExperimentError: A file that the experiment names cannot be read.
    """
    return _graph(session, None)


def _graph(session: Session, known: Known | None) -> Graph:
    judged = _judged_by(session)
    if judged is not None:
        known = known or Known()
        known = replace(known, data={**known.data, "readout": judged})
    return experiment_graph(session.experiment, session.place, known)


def _judged_by(session: Session) -> str | None:
    """sha256 of the judgements that the score was made from, if their file is gone since.

    Nothing registered it: judgements are made from what was measured.
    """
    scoring = session.experiment.scoring
    if scoring.terms.asks != "judgements" or scoring.file is None:
        return None
    if (session.place.directory / scoring.file).is_file():
        return None
    scored = recorded(session.run, SCORE).get(SCORE)
    if scored is None:
        return None
    return inputs_from(scored.manifest.recipe.inputs, ScoreInputs, SCORE).file


def registered_graph(session: Session) -> Graph:
    """The session's units; model, answers and adapters as registered, where they are not here.

    Raises:
        ModelError: The base model cannot be found, and nothing was registered.
        ExperimentError: A file that the experiment names is not there, and was not registered.
        IntegrityError: The registration is not as it was.
    """
    try:
        return graph_of(session)
    except (ModelError, ExperimentError):
        registration = read_registration(session.run)
        if registration is None:
            raise
        return _graph(session, known_hashes(registration.lock))


def planned_graph(session: Session) -> tuple[Graph, str | None]:
    """The session's units, and why its model could not be looked at, if it is not here.

    Raises:
        ModelError: The base model is here, and is none.
        ExperimentError: A file that the experiment names cannot be read.
        IntegrityError: The registration is not as it was.
    """
    try:
        return graph_of(session), None
    except AbsentModelError as error:
        registration = read_registration(session.run)
        known = Known(model={}) if registration is None else known_hashes(registration.lock)
        return _graph(session, known), str(error)


def lock_session(session: Session, graph: Graph, directory: RunDirectory) -> Registration:
    """Register a session's experiment without a deviation; see `register`.

    Raises:
        ModelError: What `run` would refuse.
        ExperimentError: What `run` would refuse.
    """
    if check_runnable(session.experiment, session.place, graph, session.run):
        check_numbers(session.experiment, session.place)
    return _register(session, graph, directory, None)


def run_experiment(
    session: Session,
    executor: Executor,
    *,
    listen: Listener,
    deviate: str | None = None,
    steal: bool = False,
    strict: bool = False,
) -> tuple[Summary, RunVerdict | None]:
    """Do what is missing, then publish the verdict and the report.

    Args:
        session: What, and where.
        executor: Where the work is done.
        listen: Told of each event.
        deviate: Why the experiment departs from what was locked.
        steal: Take over from a process whose heartbeat has expired.
        strict: Let serious objections block the run.

    Returns:
        How it ended, and the verdict; None if it was stopped before there was one.

    Raises:
        ModelError: The model or a prompt cannot work; nothing was begun.
        UnitsFailedError: Some units failed; what the others allow is published.
        LockedError, DiskFullError, MachineError, RegistrationError, IntegrityError: as they say.
    """
    if not isinstance(executor, InlineExecutor):
        refuse_untellable(session.run, session.place.directory)
    with closing(executor):
        if not (session.run / LEDGER).exists():  # nothing can be there: all will be needed
            executor.begin([EVERY_STAGE])
        graph = graph_of(session)
        if strict:
            from steerproof.decide.review.objections import objections  # takes a while

            reused = survey(session.run, graph).reused
            known = evidence_of(session.experiment, session.place.directory, reused)
            refuse_serious(objections(session.experiment, evidence=known))
        if needs_model(graph, session.run):
            executor.begin([EVERY_STAGE])
            check_experiment(session.experiment, session.place)
            require_room(session.loaded, session.run, session.place.device)
            check_numbers(session.experiment, session.place)
        with open_run(session.run, session.command, steal=steal) as directory:
            registration = _register(session, graph, directory, deviate)
            if session.others:
                borrow(directory, graph, session.others)
            with _laying(session, graph) as ahead:
                hear = listen if isinstance(executor, InlineExecutor) else ahead.beside(listen)
                summary = _execute(session, graph, directory, executor, hear)
                verdict = None
                if not summary.stopped:
                    # matplotlib and the page: nobody needs them while a run begins.
                    from steerproof.run.commands.concluding import conclude

                    laid = ahead.groundwork()
                    verdict = conclude(session, graph, directory, registration, laid)
    raise_failures(summary, session.command)
    return summary, verdict


def _execute(
    session: Session, graph: Graph, directory: RunDirectory, executor: Executor, listen: Listener
) -> Summary:
    allowed = session.allowance
    with nullcontext() if allowed is None else allowed.watching(directory, executor):
        return execute(graph, directory, executor, listen=listen)


@contextmanager
def _laying(session: Session, graph: Graph) -> Iterator[Ahead]:
    """What is done ahead for the end of a run; when this ends, nothing of it goes on."""
    inputs = session.place.directory.absolute()

    def lay() -> "Groundwork":
        from steerproof.run.commands.report_inputs import groundwork

        standing = survey(session.run, graph).standing
        return groundwork(session.experiment, inputs, standing)

    ahead = Ahead(lay)
    try:
        yield ahead
    finally:
        ahead.end()


def _register(
    session: Session, graph: Graph, directory: RunDirectory, deviate: str | None
) -> Registration:
    now = _lock_of(session, graph)
    registration = register(session.run, directory.ledger, now, deviate)
    loaded = session.loaded
    keep_copy(session.run, directory.ledger, loaded.text, session.place.directory)
    if session.changes:
        directory.ledger.add_event("set", changes=[str(change) for change in session.changes])
    return registration


def _lock_of(session: Session, graph: Graph) -> Lock:
    """What would be registered now: the experiment, versions, hashes of all that is read."""
    return make_lock(
        session.experiment,
        versions=versions(),
        hashes={
            "prompts": prompt_hashes(session.experiment),
            "model": dict(graph.units[ANSWERS].environment.model),
            **_given_hashes(graph),
        },
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _given_hashes(graph: Graph) -> dict[str, dict[str, str]]:
    """sha256 of given answers, adapters and a readout's source; what is not given is not written.

    A judge's file is not among them: it is made from what was measured.
    """
    answers = graph.units[ANSWERS].inputs
    scored = inputs_from(graph.units[SCORE].inputs, ScoreInputs, SCORE)
    source = scored.file if scored.part.scoring.terms.asks == "source" else None
    adapters = {
        f"{unit.id.name}/{name}": sha256
        for unit in graph.units.values()
        for name, sha256 in unit.inputs.get("files", {}).items()
    }
    files = {
        "answers": answers.get("file"),
        "positive_answers": answers.get("positive_file"),
        "readout": source,
    }
    data = {name: sha for name, sha in files.items() if sha}
    given = {"data": data, "adapters": adapters}
    return {name: hashes for name, hashes in given.items() if hashes}


def known_hashes(lock: Lock) -> Known:
    """What was registered of the files that units read."""

    def group(name: str) -> dict[str, str]:
        hashes = lock.hashes.get(name)
        return hashes if isinstance(hashes, dict) else {}

    return Known(model=group("model"), data=group("data"), files=group("adapters"))


def versions() -> dict[str, str]:
    """Version of everything that decides a number."""
    names = ("steerproof", "torch", "transformers", "safetensors", "numpy", "pyarrow")
    return {**{name: version(name) for name in names}, "python": platform.python_version()}
