"""What a SUPPORTED of the ranking needs, each condition alone missing; and where REFUTED begins."""

from dataclasses import replace

import pytest

from steerproof.decide.analysis.answer_records import Ranking, RankingAnswer, RevisedKill
from steerproof.decide.analysis.case import Case, case_of
from steerproof.decide.analysis.gates import Gate
from steerproof.decide.analysis.inversion import Inversion
from steerproof.decide.analysis.ranking import (
    Deciding,
    StrengthTried,
    answer_ranking,
    deciding,
)
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.analysis.rig import Rig
from steerproof.spec.grid import Cell, CellKind
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.strength import Strength
from tests.decide.tables import (
    RISING,
    TEN,
    counted,
    steered,
    supported,
    table,
    ten_personas,
)

C2 = Strength.parse("c=+2")
FOUND = Inversion(rho=0.9, p_below=0.8, interval=(0.5, 1.0))
"""Nothing against it."""
FIRED = RevisedKill(name="sign_inverted", fired=True, reason="it falls", numbers={})


def case(kinds: dict[CellKind, tuple[float, ...]] | None = None) -> Case:
    return case_of(table(kinds or supported()), ten_personas(AnalysisSettings(iterations=200)))


def answered(
    given: Case | None = None,
    *,
    inversion: Inversion | None = FOUND,
    gates: tuple[Gate, ...] = (),
    matrix: bool | None = True,
    kills: tuple[RevisedKill, ...] = (),
) -> RankingAnswer:
    tried = StrengthTried(strength=C2, gates=gates, inversion=inversion, reason="no order")
    whole = Deciding(decides=tried, primary=tried)
    return answer_ranking(given or case(), "A", whole, matrix=matrix, kills=kills)


def test_with_nothing_missing_it_is_supported():
    found = answered()
    assert (found.answer, found.rho, found.interval) == (Ranking.SUPPORTED, 0.9, (0.5, 1.0))


def without_a_pass() -> dict[CellKind, tuple[float, ...]]:
    return supported() | {steered("A", "c=+2"): tuple(reversed(RISING))}


def ranked_control(arm: str) -> dict[CellKind, tuple[float, ...]]:
    return supported() | {steered(arm, "c=+2"): RISING}


@pytest.mark.parametrize(
    ("changes", "kinds", "says"),
    [
        ({"inversion": replace(FOUND, interval=(0.0, 1.0))}, None, "0 is not excluded"),
        ({"inversion": replace(FOUND, interval=None)}, None, "0 is not excluded"),
        ({"inversion": None}, None, "no order"),
        ({"matrix": None}, None, "was not measured"),
        ({"matrix": False}, None, "do not answer to their own direction"),
        ({"kills": (FIRED,)}, None, "it falls"),
        ({}, without_a_pass(), "passing needs rho >= 0.6"),
        ({}, ranked_control("C"), "arm C passes too"),
        ({}, ranked_control("A-iso"), "arm A-iso passes too"),
    ],
)
def test_one_condition_missing_leaves_it_open(changes, kinds, says):
    found = answered(case(kinds), **changes)
    assert found.answer is Ranking.INCONCLUSIVE
    assert says in found.reason


def test_a_kill_that_did_not_fire_or_is_unknown_is_no_obstacle():
    kills = tuple(replace(FIRED, fired=fired) for fired in (False, None))
    assert answered(kills=kills).answer is Ranking.SUPPORTED


@pytest.mark.parametrize(("p", "expected"), [(0.05, Ranking.REFUTED), (0.051, Ranking.SUPPORTED)])
def test_refuted_begins_at_one_in_twenty(p, expected):
    assert answered(inversion=replace(FOUND, p_below=p)).answer is expected


def test_a_fatal_gate_that_fails_answers_before_everything_else():
    gate = Gate(
        name="attainable", passed=False, fatal=True, finding="it is 0.5", limit="", remedy=""
    )
    refuted = replace(FOUND, p_below=0.001)
    found = answered(inversion=refuted, gates=(gate,))
    assert (found.answer, found.reason, found.interval) == (
        Ranking.CANNOT_ANSWER, "it is 0.5", None,
    )  # fmt: skip
    for harmless in (replace(gate, fatal=False), replace(gate, passed=None)):
        assert answered(gates=(harmless,)).answer is Ranking.SUPPORTED


def test_the_primary_strength_decides_unless_it_breaks_text_or_pushes_unequally():
    whole = case()
    assert str(deciding(whole, Rig(), "A").decides.strength) == "c=+2"


def test_other_prompts_are_all_but_the_own_one_with_the_neutral_among_them():
    kinds = supported() | {CellKind(arm="C", prompt="neutral"): (0.30,) * 10}
    cells = dict(table(kinds).cells)
    for i, name in enumerate(TEN):
        for other in TEN[:3]:
            if other != name:
                kind = CellKind(arm="C", prompt="persona", prompt_of=other)
                cell = Cell(persona=name, arm="C", prompt="persona", direction="none", layer=None,
                            prompt_of=other)  # fmt: skip
                cells[cell] = counted(kind, 0.10 if i < 5 else 0.20, questions=True)
    given = case_of(RateTable(cells=cells), ten_personas(AnalysisSettings(iterations=200)))
    (gate,) = (g for g in deciding(given, Rig(), "A").decides.gates if g.name == "installed")
    assert gate.numbers.prompts == 4
    few, many = (0.30 + 2 * 0.10) / 3, (0.30 + 3 * 0.10) / 4  # p0 to p2 have two others here
    higher = (0.30 + 3 * 0.20) / 4
    assert gate.numbers.others == pytest.approx((3 * few + 2 * many + 5 * higher) / 10)
