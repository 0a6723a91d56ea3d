"""The end of a run: its verdict, its results and its report, of whatever units are finished."""

from typing import TYPE_CHECKING

from steerproof.errors import IntegrityError
from steerproof.run.artefacts.verdict import RunVerdict
from steerproof.run.commands.evidence import Finished
from steerproof.run.commands.report_inputs import Gathered, Groundwork
from steerproof.run.commands.results import publish_results
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.survey import recorded, survey
from steerproof.run.store.directory import RunDirectory
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.registration import Registration, read_registration

if TYPE_CHECKING:
    from steerproof.run.commands.session import Session


def conclude(
    session: "Session",
    graph: Graph,
    directory: RunDirectory,
    registration: Registration,
    laid: Groundwork | None = None,
) -> RunVerdict | None:
    """Publish what the finished units allow; None if there is no analysis.

    Args:
        session: The run.
        graph: Its units.
        directory: Its directory, held by this process.
        registration: What it answers to.
        laid: The groundwork of its report, if it was laid already.
    """
    finished = survey(session.run, graph).standing
    gathered = _gathered(session, finished, registration, units=len(graph.units))
    verdict = publish_results(gathered, laid)
    if verdict is not None:
        said = verdict.analysis
        directory.ledger.add_event("verdict", verdict=said.verdict, reason=said.reason)
    return verdict


def rebuild_report(session: "Session") -> RunVerdict | None:
    """Publish again what a run directory holds, whichever version made it, and run nothing.

    Neither the model nor anything else outside the run directory is needed.

    Returns:
        The verdict; None while there is no analysis.

    Raises:
        IntegrityError: The registration is not as it was, or nothing was registered.
    """
    return publish_results(gathered_in(session))


def gathered_in(session: "Session") -> Gathered:
    """What a run directory holds, whichever version made it.

    Raises:
        IntegrityError: The registration is not as it was, or nothing was registered.
    """
    registration = read_registration(session.run)
    if registration is None:
        raise IntegrityError(f"{session.run} is not registered; go on with: {session.command}")
    story = read_ledger(session.run)
    finished = recorded(session.run)
    units = len(story.states) if story else len(finished)
    return _gathered(session, finished, registration, units=units)


def _gathered(
    session: "Session", finished: Finished, registration: Registration, *, units: int
) -> Gathered:
    return Gathered(
        experiment=session.experiment,
        run=session.run,
        finished=finished,
        registration=registration,
        units=units,
    )
