"""The choice among settings against the definition in plain numpy, and its level under chance."""

from dataclasses import replace

import numpy as np
import pytest

from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.rates import CellCounts, RateTable
from steerproof.decide.analysis.selection import SweptRun, halves, select
from steerproof.spec.experiment import Questions
from steerproof.spec.strength import NONE
from tests.experiments import small_experiment

QUESTIONS = tuple(f"What is thing {i}?" for i in range(6))
SETTINGS = ("1", "2", "3")
TOTAL = 5


@pytest.fixture(scope="module")
def experiment():
    asked = small_experiment().questions.training
    return small_experiment(
        questions=Questions(evaluation=QUESTIONS, training=asked, directions="training")
    )


def table(experiment, fired):
    """A table from counts[direction, persona, question]; direction 0 is unpushed, 1 the own one."""
    analysis = experiment.analysis
    own = steered_kind(experiment, analysis.arm, analysis.primary_strength)
    kinds = [steered_kind(experiment, analysis.arm, NONE), own]
    kinds += [replace(own, direction="isotropic", draw=draw) for draw in range(1, len(fired) - 1)]
    cells = {
        kind.cell(persona): CellCounts(
            coefficient=0.0,
            questions=tuple(map(str, range(len(QUESTIONS)))),
            fired=tuple(int(count) for count in counts),
            total=(TOTAL,) * len(QUESTIONS),
        )
        for kind, by_persona in zip(kinds, fired, strict=True)
        for persona, counts in zip(experiment.headline, by_persona, strict=True)
    }
    return RateTable(cells=cells)


def points(experiment, counts):
    """Runs from counts[setting, seed, direction, persona, question]."""
    return [
        SweptRun(setting={"x": name}, experiment=experiment, table=table(experiment, seed))
        for name, of_setting in zip(SETTINGS, counts, strict=True)
        for seed in of_setting
    ]


def draw_counts(generator, draws, seeds=2):
    shape = (len(SETTINGS), seeds, draws + 2, 4, len(QUESTIONS))
    return generator.binomial(TOTAL, generator.uniform(0.1, 0.9, shape[:-1])[..., None], shape)


def test_the_choice_is_its_definition(experiment):
    counts = draw_counts(np.random.default_rng(5), 3)
    found = select(points(experiment, counts), 3)
    first, second = map(list, halves(QUESTIONS))
    rates = counts / TOTAL
    # effect[setting, direction, question set]: personas and seeds averaged, unpushed taken away
    effect = np.stack(
        [
            (rates[..., some].mean(-1)[:, :, 1:] - rates[..., some].mean(-1)[:, :, :1]).mean((1, 3))
            for some in (first, second, first + second)
        ],
        -1,
    )
    for direction, selected in enumerate((found.chosen, *found.null)):
        mine = effect[:, direction]
        one, two = mine[:, 0].argmax(), mine[:, 1].argmax()
        assert selected.on_first.setting == {"x": SETTINGS[one]}
        assert selected.on_second.setting == {"x": SETTINGS[two]}
        assert selected.on_first.there == pytest.approx(mine[one, 0])
        assert selected.held_out == pytest.approx((mine[one, 1] + mine[two, 0]) / 2)
        assert selected.best_of_all == pytest.approx(mine[:, 2].max())
    above = sum(one.held_out >= found.chosen.held_out for one in found.null)
    assert found.p == pytest.approx((above + 1) / 4)


@pytest.mark.nightly
def test_where_the_own_direction_is_as_good_as_a_random_one_p_keeps_its_level(experiment):
    """Four draws, so p <= 0.2 has probability 0.2; 500 tables leave a band of five deviations."""
    generator = np.random.default_rng(11)
    tables = 500
    hits = sum(
        select(points(experiment, draw_counts(generator, 4, 1)), 4).p <= 0.2 for _ in range(tables)
    )
    assert abs(hits / tables - 0.2) < 5 * np.sqrt(0.2 * 0.8 / tables)


def test_what_is_chosen_looks_better_where_it_was_chosen(experiment):
    generator = np.random.default_rng(3)
    found = [select(points(experiment, draw_counts(generator, 0)), 0).chosen for _ in range(200)]
    there = np.mean([one.on_first.there for one in found])
    assert there > np.mean([one.on_first.held_out for one in found]) + 0.02


def test_a_setting_with_a_missing_cell_is_not_chosen(experiment):
    counts = draw_counts(np.random.default_rng(1), 0)
    counts[0, :, 1] = TOTAL  # would be the best
    every = points(experiment, counts)
    cells = dict(every[0].table.cells)
    del cells[next(cell for cell in cells if cell.direction == "centroid")]
    every[0] = replace(every[0], table=RateTable(cells=cells))
    found = select(every, 0)
    assert found.rows[0].effects.whole is None
    assert {found.chosen.on_first.setting["x"], found.chosen.on_second.setting["x"]} <= {"2", "3"}
    assert (found.null, found.p) == ((), None)
    assert select(every[:4], 0).chosen is None  # one whole setting is no choice


def test_the_halves_do_not_depend_on_the_order_of_the_questions():
    first, second = halves(QUESTIONS)
    assert (len(first), len(second)) == (3, 3)
    turned = halves(QUESTIONS[::-1])[0]
    assert {QUESTIONS[i] for i in first} == {QUESTIONS[::-1][i] for i in turned}
