"""The three answers to two real runs, and to tables in which they are known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from steerproof.codec import json_bytes, plain, read_record
from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.answer_records import Carries, Ranking, Reads, ThreeAnswers
from steerproof.decide.analysis.answer_words import reading, three_lines
from steerproof.decide.analysis.answers import answer
from steerproof.decide.analysis.blocks import responses
from steerproof.decide.analysis.calibration import ControlCosines
from steerproof.decide.analysis.case import case_of
from steerproof.decide.analysis.gate_numbers import CosineNumbers
from steerproof.decide.analysis.rates import CellCounts, RateTable
from steerproof.decide.analysis.readings import NOT_EXPRESSIVE, TRAINING_GAP
from steerproof.decide.analysis.records import Analysis as Registered
from steerproof.decide.analysis.rig import Rig
from steerproof.decide.analysis.rule import Verdict
from steerproof.spec.draws import bystanders, trained_directions
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell, CellKind
from steerproof.spec.judging import AnalysisSettings, AnswerSettings
from steerproof.spec.strength import NONE, Strength
from tests.decide.tables import (
    FLAT,
    RISING,
    SHUFFLED,
    TEN,
    cell_of,
    steered,
    supported,
    table,
    ten_personas,
)
from tests.decide.trials import ORGANISM, SMOLLM2, experiment_of, rig_of, table_with_matrices

GOLDEN = Path(__file__).parent / "golden"
RATIO = Strength.parse("ratio=+0.2")


def answered(run: Path, rig: Rig | None = None) -> tuple[ThreeAnswers, Registered, Experiment]:
    experiment, rates = experiment_of(run), table_with_matrices(run)
    registered = analyze(rates, experiment)
    return answer(rates, experiment, registered, rig), registered, experiment


@pytest.fixture(scope="module")
def organism() -> tuple[ThreeAnswers, Registered, Experiment]:
    return answered(ORGANISM, rig_of(ORGANISM))


@pytest.fixture(scope="module")
def smollm2() -> tuple[ThreeAnswers, Registered, Experiment]:
    return answered(SMOLLM2, rig_of(SMOLLM2))


def golden(run: Path) -> str:
    return (GOLDEN / f"{run.name}.txt").read_text(encoding="utf-8")


def test_the_words_of_the_organisms_run_are_the_golden_ones(organism):
    assert "\n".join(three_lines(*organism)) + "\n" == golden(ORGANISM)


def test_the_words_of_the_real_models_run_are_the_golden_ones(smollm2):
    assert "\n".join(three_lines(*smollm2)) + "\n" == golden(SMOLLM2)


def test_the_organisms_ranking_cannot_be_answered_and_its_direction_is_read(organism):
    found, registered, _ = organism
    assert registered.verdict is found.registered is Verdict.REFUTED
    assert found.ranking.answer is Ranking.CANNOT_ANSWER
    assert found.ranking.strength == "ratio=+0.2"
    assert [g.name for g in found.ranking.gates if g.passed is False] == ["attainable"]
    failing = {g.name: g for g in found.ranking.primary_gates if g.passed is False}
    assert list(failing) == ["attainable", "coherent", "equal_dose"]
    assert failing["coherent"].numbers.arms["A"].coherent == pytest.approx(0.150)
    assert (found.direction.reads, found.direction.carries) == (Reads.OWN, Carries.YES)
    assert found.direction.supports


def test_the_organisms_matrices_are_those_of_the_referee(organism):
    by = {(m.arm, m.columns): m for m in organism[0].direction.matrices}
    for pair, low, high in (
        (("A", "centroid"), 0.75, 0.88),
        (("A-iso", "isotropic"), 0.82, 0.94),
        (("C", "centroid"), -0.03, 0.03),
        (("A", "prompt"), 0.33, 0.50),
        (("A-iso", "prompt"), -0.08, 0.08),
        (("C", "prompt"), 0.81, 1.00),
        (("A", "isotropic"), -0.06, 0.14),
    ):
        assert low <= by[pair].s.value <= high, pair
    own = by["A", "centroid"]
    assert (own.p, own.own_first) == (0.0001, 10)
    assert own.trained_negatives <= 0.01
    assert own.tuning == pytest.approx(0.73, abs=0.08)
    assert own.tuning_discriminant == pytest.approx(0.87, abs=0.08)


def test_the_neutral_prompt_is_a_warning_and_decides_nothing(organism):
    gates = {gate.name: gate for gate in organism[0].gates}
    assert gates["neutral"].passed is False
    assert not gates["neutral"].fatal
    assert gates["control"].passed is None  # older runs did not store the cosines


def test_the_real_models_ranking_cannot_be_answered(smollm2):
    found, _, _ = smollm2
    assert found.ranking.answer is Ranking.CANNOT_ANSWER
    failing = {g.name: g for g in found.ranking.primary_gates if g.passed is False}
    assert list(failing) == ["installed", "attainable", "equal_dose"]
    assert failing["equal_dose"].numbers.rho_rate_push == pytest.approx(0.939, abs=0.001)
    assert found.direction.reads is Reads.NOT_MEASURED
    assert found.direction.supports is None


def test_a_bare_table_knows_the_pushes_and_says_what_it_does_not_know():
    found = answered(SMOLLM2)[0]
    doses = {gate.name: gate for gate in found.ranking.primary_gates}
    assert doses["equal_dose"].numbers.largest == pytest.approx(0.543, abs=0.001)
    assert doses["coherent"].passed is None
    assert all(gate.passed is None for gate in found.gates)


def test_as_registered_is_the_same_with_and_without_matrices(organism):
    _, registered, experiment = organism
    whole = table_with_matrices(ORGANISM)
    registered_cells = RateTable(cells={c: n for c, n in whole.cells.items() if c.plain})
    alone = dataclasses.replace(analyze(registered_cells, experiment), notes=registered.notes)
    assert plain(registered) == plain(alone)
    assert "answers" not in plain(registered)


def test_the_answers_survive_being_written_and_read(organism):
    found = organism[0]
    data = json_bytes(found)
    assert read_record(ThreeAnswers, data, "answers.json") == found
    assert json_bytes(read_record(ThreeAnswers, data, "answers.json")) == data


# Tables in which the answer is known.


def matrix_cells(
    experiment: Experiment,
    arm: str,
    direction: str,
    *,
    own: float,
    held: float | tuple[float, ...],
    negative: float,
) -> dict[Cell, CellCounts]:
    """A matrix with these rates, a little apart from each other; `none` makes one of prompts."""
    prompt = direction == "none"
    cells = {}
    for i, name in enumerate(TEN):
        for j, other in enumerate(TEN):
            rate = own if name == other else held if isinstance(held, float) else held[i]
            if other in bystanders(experiment, name):
                rate = negative
            fired = min(100, max(0, round(100 * rate) + (i * 3 + j * 7) % 5 - 2))
            of = None if name == other else other
            cell = Cell(
                arm=arm,
                persona=name,
                prompt="persona" if prompt else "neutral",
                direction=direction,  # pyright: ignore[reportArgumentType] # its words
                layer=None if prompt else 1,
                strength=NONE if prompt else RATIO,
                of=None if prompt else of,
                prompt_of=of if prompt else None,
            )
            cells[cell] = CellCounts(
                coefficient=0.0 if prompt else 1.0, questions=None, fired=(fired,), total=(100,)
            )
    return cells


def case(
    kinds: dict[CellKind, tuple[float, ...]], *matrices: dict[Cell, CellCounts], **changes: object
) -> tuple[ThreeAnswers, Registered, Experiment]:
    """Answers to a table; where a matrix has a cell of the table, the table's stays."""
    asked = ten_personas(AnalysisSettings(iterations=300, permutations=999), **changes)
    cells = {cell: counts for part in matrices for cell, counts in part.items()}
    rates = RateTable(cells={**cells, **noisy(kinds).cells})
    registered = analyze(rates, asked)
    return answer(rates, asked, registered), registered, asked


def noisy(kinds: dict[CellKind, tuple[float, ...]]) -> RateTable:
    """Counts that differ between questions, so that a persona's mean has an error."""
    rng = np.random.default_rng(0)
    cells = {}
    for cell, counts in table(kinds).cells.items():
        rate = sum(counts.fired) / sum(counts.total)
        fired = tuple(int(n) for n in rng.permutation(counts.fired)) if rate else counts.fired
        cells[cell] = dataclasses.replace(counts, fired=fired)
    return RateTable(cells=cells)


def sound() -> dict[CellKind, tuple[float, ...]]:
    """Every gate that a bare table knows is passed, and the ranking is the bridge's."""
    kinds = supported()
    kinds[CellKind(arm="C", prompt="persona")] = tuple(0.30 + 0.07 * i for i in range(10))
    kinds[steered("A", "ratio=+0.2")] = tuple(0.10 + 0.08 * i for i in range(10))
    return kinds


def own_matrix(experiment: Experiment) -> dict[Cell, CellCounts]:
    return matrix_cells(experiment, "A", "centroid", own=0.5, held=0.05, negative=0.0)


def silent_matrix(experiment: Experiment) -> dict[Cell, CellCounts]:
    return matrix_cells(experiment, "C", "centroid", own=0.0, held=0.02, negative=0.0)


def test_a_ranking_is_supported_where_the_matrix_bears_it():
    asked = ten_personas()
    found, registered, experiment = case(sound(), own_matrix(asked), silent_matrix(asked))
    assert registered.verdict is Verdict.SUPPORTED
    assert found.direction.reads is Reads.OWN
    assert found.ranking.answer is Ranking.SUPPORTED, found.ranking.reason
    assert reading(found, registered, experiment) == TRAINING_GAP


def test_without_the_matrix_the_same_ranking_is_not():
    found, registered, _ = case(sound())
    assert registered.verdict is Verdict.SUPPORTED
    assert found.ranking.answer is Ranking.INCONCLUSIVE
    assert "was not measured" in found.ranking.reason
    assert found.direction.reads is Reads.NOT_MEASURED


def test_nor_where_the_adapters_answer_to_others_as_well():
    asked = ten_personas()
    alike = matrix_cells(asked, "A", "centroid", own=0.45, held=0.46, negative=0.45)
    found, _, _ = case(sound(), alike)
    assert found.direction.supports is False
    assert found.ranking.answer is Ranking.INCONCLUSIVE
    assert "do not answer to their own direction" in found.ranking.reason


def refuted(**changes: float) -> dict[CellKind, tuple[float, ...]]:
    """As `sound`, but pushed adapters fire in the opposite order."""
    kinds = sound()
    kinds[steered("A", "c=+2")] = tuple(reversed(kinds[steered("A", "c=+2")]))
    kinds[steered("A", "ratio=+0.2")] = tuple(reversed(kinds[steered("A", "ratio=+0.2")]))
    return kinds


def test_a_refuted_ranking_whose_direction_is_read_says_so():
    asked = ten_personas()
    found, registered, experiment = case(refuted(), own_matrix(asked), silent_matrix(asked))
    assert found.ranking.answer is Ranking.REFUTED
    assert "another order" in reading(found, registered, experiment)
    assert registered.reading == NOT_EXPRESSIVE  # the seed's words, as registered


def test_not_expressive_needs_gates_inversion_and_a_matrix_without_its_own():
    asked = ten_personas()
    rows = refuted()[steered("A", "ratio=+0.2")]
    alike = matrix_cells(asked, "A", "centroid", own=0.0, held=rows, negative=0.45)
    random = matrix_cells(asked, "A", "isotropic", own=0.45, held=0.45, negative=0.45)
    found, registered, experiment = case(refuted(), alike, random)
    assert found.ranking.answer is Ranking.REFUTED
    assert found.direction.reads is Reads.ANY
    # How completions end is not in a table, so one gate is open.
    assert reading(found, registered, experiment) != NOT_EXPRESSIVE
    passed = tuple(dataclasses.replace(gate, passed=True) for gate in found.ranking.gates)
    ranking = dataclasses.replace(found.ranking, gates=passed)
    whole = dataclasses.replace(found, ranking=ranking)
    assert reading(whole, registered, experiment) == NOT_EXPRESSIVE


def pushed(
    own: float, held: float, negative: float, random: float, unsteered: float
) -> ThreeAnswers:
    """The tested arm's classes at these rates."""
    asked = ten_personas()
    kinds = sound() | {
        steered("A", "ratio=+0.2"): (own,) * 10,
        CellKind(arm="A", prompt="neutral"): (unsteered,) * 10,
    }
    matrices = (
        matrix_cells(asked, "A", "centroid", own=own, held=held, negative=negative),
        matrix_cells(asked, "A", "isotropic", own=random, held=random, negative=random),
    )
    return case(kinds, *matrices)[0]


@pytest.mark.parametrize(
    ("own", "held", "negative", "random", "unsteered", "expected"),
    [
        (0.90, 0.20, 0.00, 0.10, 0.05, Reads.OWN),
        (0.60, 0.58, 0.55, 0.20, 0.05, Reads.SUBSPACE),
        (0.60, 0.58, 0.05, 0.58, 0.05, Reads.NEGATIVES),
        (0.60, 0.59, 0.60, 0.58, 0.05, Reads.ANY),
        (0.06, 0.05, 0.05, 0.05, 0.05, Reads.NONE),
    ],
)
def test_what_a_matrix_means(own, held, negative, random, unsteered, expected):
    assert pushed(own, held, negative, random, unsteered).direction.reads is expected


def prompts(a: float, iso: float) -> Carries:
    asked = ten_personas()
    matrices = (
        own_matrix(asked),
        matrix_cells(asked, "A", "none", own=a, held=0.05, negative=0.0),
        matrix_cells(asked, "A-iso", "none", own=iso, held=0.05, negative=0.0),
    )
    kinds = sound() | {CellKind(arm="A", prompt="persona"): (a,) * 10}
    return case(kinds, *matrices)[0].direction.carries


def test_whether_the_prompt_writes_what_is_read():
    assert prompts(0.5, 0.05) is Carries.YES
    assert prompts(0.5, 0.5) is Carries.BOTH
    assert prompts(0.05, 0.05) is Carries.NO


def test_a_shuffled_arm_is_named_by_both_labels():
    small = ten_personas()
    arms = tuple(
        arm.model_copy(update={"shuffle": True}) if arm.name == "A" else arm for arm in small.arms
    )
    asked = ten_personas(arms=arms)
    given = trained_directions(asked, asked.arm("A"))
    cells = matrix_cells(asked, "A", "centroid", own=0.05, held=0.05, negative=0.05)
    for cell, counts in list(cells.items()):
        if (cell.of or cell.persona) == given[cell.persona]:
            cells[cell] = dataclasses.replace(counts, fired=(60,))
    kinds = sound() | {steered("A", "ratio=+0.2"): (0.05,) * 10}
    found, registered, experiment = case(kinds, cells, arms=arms)
    own, trained = (m for m in found.direction.matrices if m.arm == "A")
    assert (own.trained_label, trained.trained_label) == (False, True)
    assert own.p > 0.05
    assert trained.p == pytest.approx(0.001)
    assert trained.s.value == pytest.approx(0.55, abs=0.03)
    assert found.direction.supports is False
    line = three_lines(found, registered, experiment)[2]
    assert "Named by the directions that they were trained with" in line


def ranked(fired):
    """The own direction, at 0.6, among draws that fired so often of 100, by (strength, draw)."""
    draws = {
        cell_of(dataclasses.replace(steered("A", strength), direction="isotropic", draw=n), p): (
            CellCounts(coefficient=1.0, questions=None, fired=(count,), total=(100,))
        )
        for (strength, n), count in fired.items()
        for p in TEN
    }
    kinds = sound() | {steered("A", "ratio=+0.2"): (0.6,) * 10}
    return case(kinds, own_matrix(ten_personas()), draws)[0].direction.draws


def test_fresh_random_draws_give_the_rank_of_the_own_direction():
    found = ranked({("ratio=+0.2", n): n % 7 for n in range(1, 20)})
    assert (found.draws, found.first) == (19, 10)
    assert found.p == pytest.approx(0.05)


def test_training_seeds_that_disagree_make_it_these_adapters():
    asked = ten_personas(AnalysisSettings(iterations=300), seed=3, seeds=(3, 4, 5))
    cells = dict(noisy(sound()).cells)
    bridge = CellKind(arm="C", prompt="persona")
    for seed, rates in ((4, SHUFFLED), (5, tuple(reversed(RISING)))):
        kinds = sound() | {bridge: rates}
        cells |= {dataclasses.replace(cell, seed=seed): n for cell, n in noisy(kinds).cells.items()}
    rates = RateTable(cells=cells)
    registered = analyze(rates, asked)
    found = answer(rates, asked, registered)
    assert [result.seed for result in found.seeds.results] == [3, 4, 5]
    assert found.seeds.mean < 0.5
    assert found.seeds.subject == "these adapters"


def test_a_published_table_of_totals_has_no_answer_to_the_ranking():
    kinds = sound()
    asked = ten_personas(AnalysisSettings(iterations=300))
    rates = table(kinds, questions=False)
    registered = analyze(rates, asked)
    found = answer(rates, asked, registered)
    assert found.ranking.answer is Ranking.INCONCLUSIVE
    assert "every question" in found.ranking.reason
    assert three_lines(found, registered, asked)[1].startswith("The ranking is undecided")


def test_a_stricter_gate_is_a_field_of_the_experiment():
    found, _, _ = case(sound(), answers=AnswerSettings(attainable=0.999))
    assert found.ranking.answer is Ranking.CANNOT_ANSWER
    assert FLAT == (0.0,) * 10


UNEVEN = (0.0, 0.26) * 5
"""Rates off the diagonal, row by row, that leave a small S either way."""


def line_of(*matrices: dict[Cell, CellCounts], **changes: object) -> str:
    return three_lines(*case(sound(), *matrices, **changes))[2]


def test_a_random_direction_that_is_hardly_told_from_others_is_not_called_learnt():
    asked = ten_personas()
    ours = own_matrix(asked)
    cases = (
        (0.15, 0.08, "A random direction is not learnt (0.0"),
        (0.18, UNEVEN, "Whether a random direction is learnt is undecided (0."),
        (0.60, 0.08, "A random direction is learnt as well (0."),
    )
    for own, held, said in cases:
        random = matrix_cells(asked, "A-iso", "isotropic", own=own, held=held, negative=0.0)
        kinds = sound() | {steered("A-iso", "ratio=+0.2"): (own,) * 10}
        assert said in three_lines(*case(kinds, ours, random))[2]


def test_prompt_trained_adapters_that_read_the_direction_too_are_said_to():
    asked = ten_personas()
    assert "prompt-trained ones do not" in line_of(own_matrix(asked), silent_matrix(asked))
    reading_too = matrix_cells(asked, "C", "centroid", own=0.5, held=0.05, negative=0.0)
    kinds = sound() | {steered("C", "ratio=+0.2"): (0.5,) * 10}
    found, registered, experiment = case(kinds, own_matrix(asked), reading_too)
    assert "prompt-trained ones do too (0.4" in three_lines(found, registered, experiment)[2]
    assert found.direction.supports is False


def test_prompt_trained_adapters_that_could_go_either_way_are_not_said_to_read():
    asked = ten_personas()
    hardly = matrix_cells(asked, "C", "centroid", own=0.18, held=UNEVEN, negative=0.0)
    kinds = sound() | {steered("C", "ratio=+0.2"): (0.18,) * 10}
    found, registered, experiment = case(kinds, own_matrix(asked), hardly)
    line = three_lines(found, registered, experiment)[2]
    assert "whether prompt-trained ones do is undecided (0." in line
    assert "do too" not in line


def test_pushes_at_some_tokens_make_no_matrix():
    asked = ten_personas()
    bent = {dataclasses.replace(cell, tokens="prompt"): n for cell, n in own_matrix(asked).items()}
    found, _, _ = case(sound(), bent)
    assert found.direction.matrices == ()
    assert found.direction.reads is Reads.NOT_MEASURED


def test_draws_at_another_strength_are_not_mixed_in():
    found = ranked({(s, n): f for s, f in (("ratio=+0.2", 5), ("c=+2", 90)) for n in (1, 2)})
    assert (found.draws, found.first) == (2, 10)
    assert found.mean == pytest.approx(0.05)


def test_the_negatives_of_a_shuffled_arm_are_the_directions_their_bystanders_were_given():
    small = ten_personas()
    arms = tuple(
        arm.model_copy(update={"shuffle": True}) if arm.name == "A" else arm for arm in small.arms
    )
    asked = ten_personas(arms=arms)
    given = trained_directions(asked, asked.arm("A"))
    cells = matrix_cells(asked, "A", "centroid", own=0.05, held=0.05, negative=0.05)
    found, _, _ = case(sound(), cells, arms=arms)
    own, trained = (m for m in found.direction.matrices if m.arm == "A")
    for name in TEN:
        others = bystanders(asked, name)
        assert set(own.negatives[name]) == {given[other] for other in others} - {name}
        assert set(trained.negatives[name]) == set(others)


def test_missing_margins_take_no_part_in_a_cells_mean():
    cell = cell_of(CellKind(arm="C", prompt="persona"), "p1")
    rig = Rig(margins={cell: np.array([2.0, np.nan, 4.0])})
    measured = responses(case_of(RateTable(cells={}), ten_personas()), rig, "margin")
    assert measured(cell) == 3.0
    assert np.isnan(measured(dataclasses.replace(cell, persona="p2")))


def test_cosines_of_random_directions_are_gated_and_their_matrix_is_tuned_by_them():
    plain = rig_of(ORGANISM)
    names = experiment_of(ORGANISM).headline
    by = {(m.arm, m.columns): m for m in answered(ORGANISM, plain)[0].direction.matrices}
    table = by["A-iso", "isotropic"].values
    # Random directions as alike as the adapters' responses: then the response follows the cosine.
    alike = {a: {b: 1.0 if a == b else table[a][b] for b in names} for a in names}
    near = {a: {b: 0.31 if a == b == "villain" else 0.0 for b in names} for a in names}
    controls = {"isotropic": ControlCosines(centroids=near, each_other=alike)}
    layers = {n: dataclasses.replace(at, controls=controls) for n, at in plain.layers.items()}
    found = answered(ORGANISM, dataclasses.replace(plain, layers=layers))[0]
    by = {(m.arm, m.columns): m for m in found.direction.matrices}
    assert by["A-iso", "isotropic"].tuning == pytest.approx(1.0)
    gates = {gate.name: gate for gate in found.gates}
    assert gates["control"].passed is False
    assert gates["control"].numbers == CosineNumbers(cosine=0.31)
