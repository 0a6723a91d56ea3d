"""Cells off the diagonal: which there are, what they are called, how often each is measured."""

import pytest
from pydantic import ValidationError

from steerproof.spec.experiment import Arm, Experiment, Grid, PromptKind
from steerproof.spec.grid import Cell, adapters, asked, cells, samples
from steerproof.spec.strength import Strength
from tests.experiments import PERSONAS, small_experiment


def grid(*arms: str, prompt: PromptKind = "neutral", **fields: object) -> Grid:
    given = {"arms": arms, "prompt": prompt, "strengths": ("ratio=+0.2",), **fields}
    return Grid.model_validate(given)


def with_grids(*grids: Grid, **changes: object) -> Experiment:
    experiment = small_experiment()
    return small_experiment(cells=(*experiment.cells, *grids), **changes)


def names(experiment: Experiment) -> list[str]:
    """Of the cells that the small experiment does not have already."""
    before = set(cells(small_experiment()))
    return [cell.name for cell in cells(experiment) if cell not in before]


def test_all_directions_of_an_arm_add_every_other_persona_and_keep_its_own_cells_as_they_are() -> (
    None
):
    found = names(with_grids(grid("A", of="all")))
    expected = {
        f"A.{own}.neutral.centroid.L1.ratio=+0.2@{other}"
        for own in PERSONAS
        for other in PERSONAS
        if other != own
    }
    assert len(found) == 12
    assert set(found) == expected


def test_others_are_all_but_the_own_and_a_name_is_one_column() -> None:
    alone = small_experiment(cells=(grid("A", of="others"),))
    assert all(cell.of not in (None, cell.persona) for cell in cells(alone))
    column = cells(small_experiment(cells=(grid("A", of="judge"),)))
    assert [cell.of for cell in column] == ["judge", "judge", None, "judge"]


def test_supplementary_personas_have_no_row_in_a_matrix_but_can_be_a_column() -> None:
    matrix = cells(small_experiment(cells=(grid("C", of="all"),)))
    assert {cell.persona for cell in matrix} == set(PERSONAS)
    column = cells(small_experiment(cells=(grid("C", of="helpful_assistant"),)))
    assert {cell.of for cell in column} == {"helpful_assistant"}


def test_a_cell_that_two_grids_ask_for_is_measured_as_often_as_the_one_that_asks_most() -> None:
    found = samples(with_grids(grid("A", of="all", samples=1)))
    counted = {cell.name: count for cell, count in found.items()}
    assert counted["A.pirate.neutral.centroid.L1.ratio=+0.2"] == 2
    assert counted["A.pirate.neutral.centroid.L1.ratio=+0.2@poet"] == 1


def test_a_cell_is_graded_on_every_text_that_one_of_its_grids_names() -> None:
    experiment = with_grids(
        grid("A", of="all", samples=1, graded="common"), grid("A", graded="own")
    )
    wanted = {cell.name: what for cell, what in asked(experiment).items()}
    own = wanted["A.pirate.neutral.centroid.L1.ratio=+0.2"]
    assert (own.samples, own.common, own.own) == (2, True, True)
    other = wanted["A.pirate.neutral.centroid.L1.ratio=+0.2@poet"]
    assert (other.samples, other.common, other.own) == (1, True, False)
    assert not wanted["A.pirate.neutral.none"].graded


def test_names_say_what_is_used_and_a_cell_is_read_back_from_its_record() -> None:
    cell = Cell(
        arm="A",
        persona="poet",
        prompt="persona",
        direction="isotropic",
        layer=1,
        strength=Strength.parse("c=+1"),
        of="judge",
        prompt_of="baker",
        draw=3,
        tokens="generated",
        operation="remove",
        seed=2,
    )
    place = "A.poet.persona.isotropic.L1.c=+1"
    assert cell.name == f"{place}.remove.generated@judge^baker~3.s2"
    assert Cell.from_record(cell.record()) == cell
    assert not cell.plain


def test_a_cell_without_any_of_it_has_the_record_and_the_name_that_it_always_had() -> None:
    plain = next(cell for cell in cells(small_experiment()) if cell.layer is None)
    assert plain.plain
    assert plain.record() == {
        "arm": "A",
        "persona": "pirate",
        "prompt": "neutral",
        "direction": "none",
        "layer": None,
        "strength": "none",
    }
    assert plain.name == "A.pirate.neutral.none"


def test_fresh_directions_are_numbered_from_one_for_each_adapter() -> None:
    found = names(with_grids(grid("A-iso", draws=3)))
    assert len(found) == 4 * 3
    assert found[:3] == [f"A-iso.pirate.neutral.isotropic.L1.ratio=+0.2~{k}" for k in (1, 2, 3)]


def test_an_untrained_arm_has_cells_and_no_adapter() -> None:
    small = small_experiment()
    arms = (*small.arms, Arm(name="base", untrained=True))
    experiment = with_grids(grid("base"), arms=arms)
    assert names(experiment) == [f"base.{p}.neutral.centroid.L1.ratio=+0.2" for p in PERSONAS]
    assert adapters(experiment) == adapters(small)


def test_a_trained_arm_must_say_its_prompt_and_an_untrained_one_has_nothing_to_train() -> None:
    with pytest.raises(ValidationError, match="arm A needs a prompt"):
        Arm(name="A", direction="centroid", ratio=0.2)
    with pytest.raises(ValidationError, match="arm base is untrained"):
        Arm(name="base", untrained=True, direction="centroid", ratio=0.2)


def test_training_seeds_repeat_adapters_and_cells_after_those_of_the_first() -> None:
    once, thrice = small_experiment(), small_experiment(seeds=(3, 7, 8))
    assert adapters(thrice)[: len(adapters(once))] == adapters(once)
    assert len(adapters(thrice)) == 3 * len(adapters(once))
    assert cells(thrice)[: len(cells(once))] == cells(once)
    assert {cell.seed for cell in cells(thrice)} == {None, 7, 8}
    last = cells(thrice)[-1]
    assert last.name.endswith(".ratio=+0.2.s8")
    assert last.adapter.name == "A-L10.baker.s8"


def test_what_is_not_used_is_not_written_out() -> None:
    dumped = small_experiment().model_dump(mode="json")
    assert "seeds" not in dumped
    assert set(dumped["cells"][0]) == {"arms", "prompt", "strengths", "direction", "layer"}
    assert "untrained" not in dumped["arms"][0]
    used = with_grids(grid("A", of="all", samples=1), seeds=(3, 4)).model_dump(mode="json")
    assert used["seeds"] == [3, 4]
    assert used["cells"][-1]["of"] == "all"
