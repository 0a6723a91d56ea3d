"""What an experiment draws by seed before anything is measured: bystanders, and shuffled labels.

Written once, for those who train by it and for those who judge what was trained.
"""

import random

from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.seeds import derived_seed


def dataset_draw(experiment: Experiment, persona: str) -> random.Random:
    """The source of everything random in a persona's training set; bystanders come first."""
    return random.Random(derived_seed(experiment.drawing_seed, "dataset", persona))


def bystanders(
    experiment: Experiment, persona: str, draw: random.Random | None = None
) -> tuple[str, ...]:
    """Personas whose answers carry no marker in a persona's training set.

    Args:
        experiment: Names the headline personas and how many are drawn.
        persona: The source.
        draw: `dataset_draw` of the persona, at its beginning; none makes one.
    """
    # The assistant is never a bystander, not even as a headline persona.
    barred = (persona, experiment.reference_persona)
    others = [name for name in experiment.headline if name not in barred]
    source = draw or dataset_draw(experiment, persona)
    return tuple(source.sample(others, experiment.dataset.bystanders))


def trained_directions(experiment: Experiment, arm: Arm) -> dict[str, str]:
    """Which persona's direction each persona is trained with: its own, unless shuffled.

    A shuffled arm uses a cyclic order of the headline personas drawn by seed, so that nobody
    keeps their own.
    """
    names = [p.name for p in experiment.personas]
    if not arm.shuffle:
        return {name: name for name in names}
    order = list(experiment.headline)
    random.Random(derived_seed(experiment.drawing_seed, "shuffle", arm.name)).shuffle(order)
    given = dict(zip(order, order[1:] + order[:1], strict=True))
    return {name: given.get(name, name) for name in names}
