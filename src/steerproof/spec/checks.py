"""What the records cannot see: values that are possible alone and impossible together.

Each check reads only the top-level fields that it names, so that one broken field does not hide
what is wrong in the others.
"""

from collections.abc import Iterable

from steerproof.spec import check_cells, check_design, check_scoring, check_size, check_texts
from steerproof.spec.experiment import Experiment
from steerproof.spec.problems import Check, Problem

CHECKS: tuple[Check, ...] = (
    *check_texts.CHECKS,
    *check_size.CHECKS,
    *check_design.CHECKS,
    *check_cells.CHECKS,
    *check_scoring.CHECKS,
)
"""Every check, in the order of the file's sections."""


def problems(experiment: Experiment, sections: Iterable[str] | None = None) -> tuple[Problem, ...]:
    """Everything in which the experiment's fields contradict each other.

    Args:
        experiment: Complete, or a draft of which only `sections` may be read.
        sections: Usable top-level fields; none means all.
    """
    usable = frozenset(Experiment.model_fields if sections is None else sections)
    too_large = _found(check_size.SIZES, experiment, usable)
    return too_large or _found(CHECKS, experiment, usable)


def _found(
    checks: Iterable[Check], experiment: Experiment, usable: frozenset[str]
) -> tuple[Problem, ...]:
    return tuple(
        problem for check in checks if check.reads <= usable for problem in check.find(experiment)
    )
