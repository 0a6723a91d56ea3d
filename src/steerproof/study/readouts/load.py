"""The readouts, by the name that an experiment calls them. No torch."""

from importlib import import_module

from steerproof.errors import ExperimentError
from steerproof.spec.experiment import Experiment
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts import module_of
from steerproof.study.readouts.readable import Marks, Readable, Readout


class UnreadError(ExperimentError):
    """A completion cannot be marked by its text alone: scoring has to come first."""


def readout_of(given: Readable) -> Readout:
    """What marks the completions of each cell.

    Raises:
        ExperimentError: There is no readout of that name, or it lacks what it needs.
    """
    scoring = given.experiment.scoring
    _ = scoring.terms  # of a name that is not registered nothing is imported
    return import_module(module_of(scoring.readout)).readout(given)


def text_readout(experiment: Experiment) -> Marks:
    """What an experiment's completions are marked by as far as the text alone decides.

    Returns:
        A readout; one that needs more than the text raises `UnreadError` for every completion.

    Raises:
        ExperimentError: There is no readout of that name, or it lacks what it needs.
    """
    scoring = experiment.scoring
    if scoring.terms.asks == "text":
        return readout_of(Readable(experiment=experiment))("")

    def unread(_completion: Completion) -> Mark:
        raise UnreadError(
            f"readout {scoring.readout} needs more than the text: it is marked when all is scored"
        )

    return unread
