"""One experiment in one run directory: register, do what is missing, publish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steerproof.decide.review.objections import to_json as objections_json
from steerproof.errors import RegistrationError
from steerproof.run.driver.executors import Executor
from steerproof.run.driver.scheduler import Listener, Summary, execute, raise_failures
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.survey import recorded, survey
from steerproof.run.graph.units import Place, experiment_graph
from steerproof.run.planning import objections_of, refuse_serious
from steerproof.run.preflight import check_runnable
from steerproof.run.results import (
    Gathered,
    publish_results,
    report_inputs,
    verdict_json,
    versions,
)
from steerproof.run.store.directory import RunDirectory, open_run
from steerproof.run.store.files import write_file
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.experiment import Experiment
from steerproof.spec.lock import (
    Deviation,
    Lock,
    append_deviation,
    check_registered,
    lock_bytes,
    make_lock,
    prompt_hashes,
    read_deviations,
    read_lock,
)
from steerproof.spec.yaml_io import Loaded

SPEC, LOCK, DEVIATIONS = "experiment.yaml", "experiment.lock.json", "deviations.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is to be done, and where."""

    loaded: Loaded
    run: Path
    place: Place
    command: str
    """The command to type to go on."""

    @property
    def experiment(self) -> Experiment:
        """The experiment as resolved."""
        return self.loaded.experiment


def new_session(loaded: Loaded, run: Path, device: str = "cpu") -> Session:
    """A session of an experiment in a run directory."""
    return Session(
        loaded=loaded,
        run=run,
        place=Place(directory=loaded.directory, device=device),
        command=f"steerproof run {loaded.path} --dir {run}",
    )


def graph_of(session: Session) -> Graph:
    """The session's units.

    Raises:
        ModelError: The base model cannot be found.
        ExperimentError: A file that the experiment names cannot be read.
    """
    return experiment_graph(session.experiment, session.place)


def registration_of(session: Session, graph: Graph) -> Lock:
    """What would be registered now: the experiment, versions, hashes of all that is read."""
    return make_lock(
        session.experiment,
        versions=versions(),
        hashes={
            "prompts": prompt_hashes(session.experiment),
            "model": dict(graph.units["answers/base"].environment.model),
        },
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def register(
    session: Session, graph: Graph, directory: RunDirectory, deviate: str | None
) -> tuple[Lock, tuple[Deviation, ...]]:
    """Lock the experiment, or check it against the lock that is there.

    Raises:
        RegistrationError: It differs from what was locked and no reason is given, or a reason is
            given and nothing differs.
        IntegrityError: The lock or its deviations were edited.
    """
    run, now = session.run, registration_of(session, graph)
    place = run / LOCK
    if not place.is_file():
        if deviate is not None:
            raise RegistrationError("nothing is locked in this run directory yet; drop --deviate")
        write_file(place, lock_bytes(now))
        directory.ledger.add_event("locked", sha256=now.sha256)
    lock = read_lock(place.read_bytes())
    story = run / DEVIATIONS
    content = story.read_bytes() if story.is_file() else b""
    if deviate is not None:
        content = append_deviation(content, lock, now, reason=deviate, time=now.time)
        write_file(story, content)
        directory.ledger.add_event("deviated", reason=deviate)
    declared = read_deviations(content, lock)
    check_registered(lock, declared, now)
    spec = session.loaded.text.encode()
    copy = run / SPEC
    if not copy.is_file() or copy.read_bytes() != spec:
        write_file(copy, spec)
    return lock, declared


def run_experiment(
    session: Session,
    executor: Executor,
    *,
    listen: Listener,
    deviate: str | None = None,
    steal: bool = False,
    strict: bool = False,
) -> tuple[Summary, dict[str, Any] | None]:
    """Do what is missing, then publish the verdict and the report.

    Returns:
        How it ended, and verdict.json; None if it was stopped before there was one.

    Raises:
        ModelError: The model or a prompt cannot work; nothing was begun.
        UnitsFailedError: Some units failed; what the others allow is published.
        LockedError, DiskFullError, MachineError, RegistrationError, IntegrityError: as they say.
    """
    graph = graph_of(session)
    if strict:
        found, _ = objections_of(session.experiment, survey(session.run, graph).reused)
        refuse_serious(objections_json(found))
    check_runnable(session.experiment, session.place, graph, session.run)
    with open_run(session.run, session.command, steal=steal) as directory:
        lock, declared = register(session, graph, directory, deviate)
        summary = execute(graph, directory, executor, listen=listen)
        verdict = None
        if not summary.stopped:
            finished = survey(session.run, graph).standing
            verdict = publish_all(session, graph, finished, lock, declared)
            if verdict is not None:
                directory.ledger.add_event(
                    "verdict", verdict=verdict["verdict"], reason=verdict["reason"]
                )
    raise_failures(summary, session.command)
    return summary, verdict


def publish_all(
    session: Session,
    graph: Graph,
    finished: Mapping[str, StoredUnit],
    lock: Lock,
    declared: Sequence[Deviation],
) -> dict[str, Any] | None:
    """Write `results/` from the finished units; None while there is no analysis."""
    if "analysis/all" not in finished:
        return None
    verdict = verdict_json(finished, lock)
    inputs = report_inputs(
        Gathered(
            experiment=session.experiment,
            run=session.run,
            graph=graph,
            finished=finished,
            registration=lock,
            declared=declared,
            objections=objections_json(objections_of(session.experiment, finished)[0]),
        )
    )
    rates = finished["score/all"].read("rates.csv")
    publish_results(session.run, inputs, verdict, rates)
    return verdict


def rebuild_report(session: Session) -> dict[str, Any] | None:
    """Publish again what a run directory holds, whichever version made it, and run nothing."""
    graph = graph_of(session)
    lock = read_lock((session.run / LOCK).read_bytes())
    story = session.run / DEVIATIONS
    declared = read_deviations(story.read_bytes() if story.is_file() else b"", lock)
    found = recorded(session.run)
    finished = {unit: found[unit] for unit in graph.units if unit in found}
    return publish_all(session, graph, finished, lock, declared)
