import numpy as np
import pytest

from steerproof.decide.analysis.seeds import one_training, seed_agreement
from steerproof.spec.judging import AnswerSettings


def test_agreement_is_the_two_way_intraclass_correlation_of_shrout_and_fleiss():
    # Shrout and Fleiss (1979), table 2: six targets, four judges; ICC(3,1) 0.71, ICC(3,4) 0.91.
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    found = seed_agreement(np.array(ratings, dtype=float), AnswerSettings())
    assert found.single == pytest.approx(0.71, abs=0.005)
    assert found.mean == pytest.approx(0.91, abs=0.005)
    assert found.subject == "these personas"


def test_what_a_seed_adds_to_every_persona_changes_nothing():
    values = np.random.default_rng(0).random((10, 3))
    shifted = seed_agreement(values + np.array([0.0, 5.0, -2.0]), AnswerSettings())
    assert shifted.mean == pytest.approx(seed_agreement(values, AnswerSettings()).mean)


def test_below_half_the_words_are_these_adapters():
    values = np.random.default_rng(1).random((10, 4)) + 0.05 * np.arange(10)[:, None]
    found = seed_agreement(values, AnswerSettings(seed_agreement=0.9))
    assert found.subject == "these adapters"
    assert "below 0.9" in found.reason


def test_one_training_says_nothing_of_personas():
    assert one_training().subject == "these adapters"
    assert seed_agreement(np.zeros((4, 1)), AnswerSettings()) == one_training()
    assert seed_agreement(np.ones((4, 3)), AnswerSettings()).mean is None
    two = seed_agreement(np.arange(8.0).reshape(4, 2), AnswerSettings())
    assert (two.mean, two.subject) == (1.0, "these adapters")
