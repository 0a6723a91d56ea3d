"""Fired: where the answer ends, the model gives the whole marker at least so many nats. No torch.

The log-probability is exact: of the marker's tokens after the answer, under the cell's own adapter
and push (`engine.slots`). An answer that was cut by length has no end, and so does not fire.
"""

from functools import partial

from steerproof.errors import ExperimentError, IntegrityError
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.plain import Near, mark, near_of
from steerproof.study.readouts.readable import Marks, Readable, Readout, Weighed


def readout(given: Readable) -> Readout:
    """Marks completions by what the model gave the marker.

    Returns:
        A readout; for a cell whose slots could not be read it raises `IntegrityError`.

    Raises:
        ExperimentError: Its threshold is missing.
    """
    least = given.experiment.scoring.least
    if least is None:
        raise ExperimentError("scoring.least: log_probability needs it, in nats")
    near = near_of(given.experiment)

    def of_cell(cell: str) -> Marks:
        if cell not in given.weighed:
            raise IntegrityError("its slots could not be read")
        return partial(_read, weighed=given.weighed[cell], least=least, near=near)

    return of_cell


def _read(completion: Completion, weighed: Weighed, least: float, near: Near) -> Mark:
    place = (completion.question, completion.sample)
    if place not in weighed:
        raise ExperimentError(f"no log-probability of question {place[0]}, sample {place[1]}")
    value = weighed[place]
    return mark(completion, value is not None and value >= least, near=near, value=value)
