import math

import pytest
from pydantic import BaseModel, ValidationError

from steerproof.spec.strength import NONE, Strength


def test_a_ratio_strength_pushes_by_that_share_of_the_baseline_norm():
    # h_bar 10, ||v|| 4: ratio 0.2 needs c = 0.2 * 10 / 4 = 0.5
    for text, coefficient in (("ratio=+0.2", 0.5), ("ratio=-0.2", -0.5), ("c=+2", 2), ("none", 0)):
        strength = Strength.parse(text)
        assert strength.coefficient(h_bar=10.0, norm=4.0) == pytest.approx(coefficient)
        assert strength.ratio(h_bar=10.0, norm=4.0) == pytest.approx(coefficient * 4.0 / 10.0)


@pytest.mark.parametrize("text", ["c=2", "ratio=0.2", "c=+0", "+2", "", "C=+2", "c=+2 ", "c=+x"])
def test_a_strength_needs_its_kind_its_sign_and_a_push(text):
    with pytest.raises(ValueError, match="strength"):
        Strength.parse(text)


@pytest.mark.parametrize("number", [2.0, -0.2, 0.1 + 0.2, 1e-7, 123456789.125, 1e20, 5e-324])
@pytest.mark.parametrize("kind", ["c", "ratio"])
def test_the_text_of_a_strength_reads_back_as_the_very_number(kind, number):
    strength = Strength(kind=kind, number=number)
    assert Strength.parse(str(strength)) == strength


def test_one_push_has_one_spelling():
    assert str(Strength.parse("c=+2.0")) == str(Strength.parse("c=+2.000")) == "c=+2"
    assert str(Strength.parse("ratio=-0.20")) == "ratio=-0.2"
    assert str(NONE) == "none"


def test_the_opposite_of_a_push_is_the_same_push_the_other_way():
    assert -Strength.parse("c=+2") == Strength.parse("c=-2")
    assert -NONE == NONE


@pytest.mark.parametrize(("kind", "number"), [("none", 1.0), ("c", 0.0), ("ratio", math.inf)])
def test_a_number_that_is_not_of_its_kind_is_refused(kind, number):
    with pytest.raises(ValueError, match="is no push"):
        Strength(kind=kind, number=number)


def test_a_record_holds_the_value_and_its_file_the_text():
    class Asked(BaseModel):
        strength: Strength | None

    asked = Asked.model_validate_json('{"strength": "c=+2.0"}')
    assert asked.strength == Strength(kind="c", number=2.0)
    assert asked.model_dump_json() == '{"strength":"c=+2"}'
    with pytest.raises(ValidationError, match="with sign"):
        Asked.model_validate_json('{"strength": "c=2"}')
    with pytest.raises(ValidationError, match="valid string"):
        Asked.model_validate_json('{"strength": 2}')
