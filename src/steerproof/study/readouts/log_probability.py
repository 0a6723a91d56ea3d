"""Fired: where the answer ends, the model gives the whole marker at least so many nats. No torch.

The log-probability is exact: of the marker's tokens after the answer, under the cell's own adapter
and push (`engine.slots`). An answer that was cut by length has no end, and so does not fire.
"""

from collections.abc import Callable, Mapping

from steerproof.errors import ExperimentError
from steerproof.spec.experiment import Experiment
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.plain import mark, near_of

Weighed = Mapping[tuple[int, int], float | None]
"""Log-probability of the marker by question and sample; None for an answer without an end."""


def readout(experiment: Experiment, weighed: Weighed) -> Callable[[Completion], Mark]:
    """Marks the completions of one cell.

    Args:
        experiment: Says from how many nats on.
        weighed: What the model gave the marker in that cell.

    Raises:
        ExperimentError: Its threshold is missing.
    """
    least = experiment.scoring.least
    if least is None:
        raise ExperimentError("scoring.least: log_probability needs it, in nats")
    near = near_of(experiment)

    def read(completion: Completion) -> Mark:
        place = (completion.question, completion.sample)
        if place not in weighed:
            raise ExperimentError(f"no log-probability of question {place[0]}, sample {place[1]}")
        value = weighed[place]
        return mark(completion, value is not None and value >= least, near=near, value=value)

    return read
