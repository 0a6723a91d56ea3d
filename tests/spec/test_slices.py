import pytest

from steerproof.spec.slices import partial_experiment, pick
from tests.experiments import small_experiment


def test_a_slice_gives_back_its_fields_and_nothing_else():
    experiment = small_experiment()
    part = partial_experiment(
        pick(experiment.model_dump(mode="json"), "seed", "personas", "questions.training")
    )
    assert part.seed == experiment.seed
    assert part.headline == experiment.headline
    assert part.questions.training == experiment.questions.training
    with pytest.raises(AttributeError):
        _ = part.marker
    with pytest.raises(AttributeError):
        _ = part.questions.evaluation


def test_a_field_with_a_default_is_absent_too():
    part = partial_experiment(pick(small_experiment().model_dump(mode="json"), "dataset.positives"))
    assert part.dataset.positives == 6
    with pytest.raises(AttributeError):
        _ = part.dataset.bystanders


def test_every_whole_field_survives():
    experiment = small_experiment()
    names = experiment.model_dump()  # Fields that are not used are not in it.
    part = partial_experiment(pick(experiment.model_dump(mode="json"), *names))
    assert all(getattr(part, name) == getattr(experiment, name) for name in names)
