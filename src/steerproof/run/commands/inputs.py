"""What a run directory needs from elsewhere to go on, and what of it is not here."""

import shlex
from collections.abc import Iterator

from steerproof.errors import ExperimentError, ModelError
from steerproof.exchange.adapters import adapter_directory
from steerproof.run.commands.session import Session
from steerproof.run.graph.environment import model_directory
from steerproof.run.store.registration import SPEC
from steerproof.spec.grid import adapters


def require_inputs(session: Session) -> None:
    """Refuse to go on with a run directory whose inputs are elsewhere, naming all of them.

    Raises:
        ExperimentError: Something that the experiment names is not here.
    """
    missing = list(_missing(session))
    if not missing or session.loaded.path != session.run / SPEC:
        return  # an experiment file's own messages name the file and the line
    place = session.place.directory
    command = shlex.join(["steerproof", "run", str(session.run), "--inputs"])
    lines = [
        f"{session.run} cannot go on here: what it reads is not below {place}:",
        *(f"  {one}" for one in missing),
        f"To point to the folder that they are in: {command} FOLDER",
        "What needs no model works as it is: status, explain, verify, report, figures, board.",
    ]
    raise ExperimentError("\n".join(lines))


def _missing(session: Session) -> Iterator[str]:
    experiment, place = session.experiment, session.place.directory
    try:
        model_directory(experiment, place, weights=False)
    except ModelError:
        yield f"model.path: {experiment.model.path}"
    data = experiment.dataset
    if data.answers != "base" and not (place / data.answers).is_file():
        yield f"dataset.answers: {data.answers}"
    if data.positive_answers is not None and not (place / data.positive_answers).is_file():
        yield f"dataset.positive_answers: {data.positive_answers}"
    scoring = experiment.scoring
    if scoring.terms.asks == "source" and not (place / str(scoring.file)).is_file():
        yield f"scoring.function: {scoring.function}"
    for persona in experiment.personas:
        if persona.direction is not None and not (place / persona.direction).is_file():
            yield f"personas.{persona.name}.direction: {persona.direction}"
    told: set[str] = set()
    for adapter in adapters(experiment):
        arm = experiment.arm(adapter.arm)
        if arm.adapters is None or arm.name in told:
            continue
        try:
            adapter_directory(arm, adapter.persona, place)
        except (ExperimentError, ModelError):
            told.add(arm.name)
            yield f"arms.{arm.name}.adapters: {arm.adapters}"
