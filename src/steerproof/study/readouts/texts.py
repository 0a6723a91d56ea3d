"""The readouts of texts, by the name that an experiment calls them. No torch."""

from collections.abc import Callable, Mapping

from steerproof.errors import ExperimentError
from steerproof.spec.experiment import Experiment
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts import marker

TextReadout = Callable[[Completion], Mark]
"""Marks one completion."""
READOUTS: Mapping[str, Callable[[Experiment], TextReadout]] = {"marker": marker.readout}
"""What makes each, from an experiment's marker and scoring."""


def text_readout(experiment: Experiment) -> TextReadout:
    """What an experiment's completions are marked by.

    Raises:
        ExperimentError: There is no readout of that name.
    """
    name = experiment.scoring.readout
    if name not in READOUTS:
        raise ExperimentError(f"scoring.readout: no {name!r}; there are {', '.join(READOUTS)}")
    return READOUTS[name](experiment)
