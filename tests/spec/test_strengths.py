import pytest

from steerproof.spec.experiment import coefficient, parse_strength


def test_a_ratio_strength_pushes_by_that_share_of_the_baseline_norm():
    # h_bar 10, ||v|| 4: ratio 0.2 needs c = 0.2 * 10 / 4 = 0.5
    assert coefficient("ratio=+0.2", h_bar=10.0, norm=4.0) == pytest.approx(0.5)
    assert coefficient("ratio=-0.2", h_bar=10.0, norm=4.0) == pytest.approx(-0.5)
    assert coefficient("c=+2", h_bar=10.0, norm=4.0) == 2.0
    assert coefficient("none", h_bar=10.0, norm=4.0) == 0.0


@pytest.mark.parametrize("label", ["c=2", "ratio=0.2", "c=+0", "+2", "", "C=+2", "c=+2 ", "c=+x"])
def test_a_strength_needs_its_kind_its_sign_and_a_push(label):
    with pytest.raises(ValueError, match="strength"):
        parse_strength(label)
