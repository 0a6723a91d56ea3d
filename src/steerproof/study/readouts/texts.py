"""The readouts, by the name that an experiment calls them. No torch.

Some need the text alone, and can be asked at any time; the others need what somebody or something
said of the text, which scoring gathers first.
"""

from collections.abc import Callable, Mapping

from steerproof.errors import ExperimentError
from steerproof.spec.experiment import Experiment
from steerproof.spec.scoring import NEEDS
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts import marker, regex

TextReadout = Callable[[Completion], Mark]
"""Marks one completion."""
READOUTS: Mapping[str, Callable[[Experiment], TextReadout]] = {
    "marker": marker.readout,
    "regex": regex.readout,
}
"""What makes those that need the text alone, from an experiment's marker and scoring."""


class UnreadError(ExperimentError):
    """A completion cannot be marked by its text alone: scoring has to come first."""


def text_readout(experiment: Experiment) -> TextReadout:
    """What an experiment's completions are marked by as far as the text alone decides.

    Returns:
        A readout; one that needs more than the text raises `UnreadError` for every completion.

    Raises:
        ExperimentError: There is no readout of that name, or it lacks what it needs.
    """
    name = experiment.scoring.readout
    if name in READOUTS:
        return READOUTS[name](experiment)
    if name not in NEEDS:
        raise ExperimentError(f"scoring.readout: no {name!r}; there are {', '.join(NEEDS)}")

    def unread(_completion: Completion) -> Mark:
        raise UnreadError(
            f"readout {name} needs more than the text: it is marked when all is scored"
        )

    return unread
