"""Cells off the diagonal are kept apart from those that the registered analysis is about."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steerproof.board.cell_rates import CellRate
from steerproof.board.grid import matrix
from steerproof.codec import plain
from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.rates import RateRow, RateTable, of_seed, table_of
from steerproof.decide.analysis.rates_csv import COLUMNS, format_rates, read_rates
from steerproof.decide.review.objections_design import design_objections
from steerproof.errors import ExperimentError
from steerproof.spec.check_design import measured_strengths
from steerproof.spec.experiment import Arm, Grid
from steerproof.spec.grid import Cell, CellKind
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.strength import NONE, Strength
from tests.decide.tables import FLAT, RISING, TEN, rows_of, steered, supported, table, ten_personas

EVERY_ARM = ("A", "C", "A-iso", "A-L10")
FURTHER: tuple[dict[str, object], ...] = (
    {"of": "p9"},
    {"draw": 1},
    {"tokens": "generated"},
    {"operation": "remove"},
    {"seed": 7},
)


def crowded(small: RateTable, rate: float) -> RateTable:
    """The table with, beside every cell, cells that differ from it in one further field."""
    more = {}
    for cell, counts in small.cells.items():
        fired = tuple(round(rate * total) for total in counts.total)
        named = FURTHER if cell.layer is not None else ({"seed": 7}, {"prompt_of": "p9"})
        for fields in named:
            if "p9" not in fields.values() or cell.persona != "p9":
                other = replace(cell, **fields)  # pyright: ignore[reportArgumentType]
                more[other] = replace(counts, fired=fired)
    return RateTable(cells={**more, **small.cells})


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_registered_analysis_is_the_same_whatever_lies_beside_it(rate: float) -> None:
    small = table(supported())
    asked = ten_personas(AnalysisSettings(iterations=300))
    alone, beside = (analyze(t, asked) for t in (small, crowded(small, rate)))
    assert plain(beside) == plain(alone)


def test_a_silent_arm_stays_silent_when_other_directions_make_it_fire() -> None:
    kinds = dict.fromkeys(supported(), FLAT) | {CellKind(arm="C", prompt="persona"): RISING}
    small = table(kinds)
    # At a strength, too, that the own direction was not measured at.
    weak = {
        replace(cell, of="p9", strength=Strength.parse("c=+1")): counts
        for cell, counts in small.cells.items()
        if cell.strength == Strength.parse("c=+2") and cell.persona != "p9"
    }
    beside = RateTable(cells={**crowded(small, 1.0).cells, **weak})
    found = analyze(beside, ten_personas(AnalysisSettings(iterations=300)))
    assert found.arms["A"].kills["uniform_zero"].fired is True


def test_an_untrained_arm_is_no_arm_of_the_analysis() -> None:
    small = ten_personas(AnalysisSettings(iterations=300))
    asked = ten_personas(
        AnalysisSettings(iterations=300), arms=(*small.arms, Arm(name="base", untrained=True))
    )
    base = {replace(steered("A", "ratio=+0.2"), arm="base"): FLAT}
    found = analyze(table(supported() | base), asked)
    assert "base" not in found.arms
    assert plain(found) == plain(analyze(table(supported()), small))


def test_what_lies_off_the_diagonal_counts_as_measured_nowhere() -> None:
    small = ten_personas()
    special = tuple(
        Grid.model_validate({"arms": EVERY_ARM, "prompt": "neutral", "strengths": ("c=+2",)} | more)
        for more in ({"of": "others"}, {"tokens": "prompt"}, {"operation": "remove"})
    )
    asked = small.model_copy(update={"cells": special})
    assert measured_strengths(asked, asked.arm("A"), "neutral") == ()
    codes = {one.code for one in design_objections(asked, training_seeds=3, coverage=None)}
    assert "unmeasured_kills" in codes
    whole = small.model_copy(update={"cells": (special[0].model_copy(update={"of": "all"}),)})
    assert measured_strengths(whole, whole.arm("A"), "neutral") == (Strength.parse("c=+2"),)


def test_a_line_for_each_persona_holds_no_other_directions_cell_on_the_board() -> None:
    cell = next(iter(table({steered("A", "c=+2"): RISING}).cells))
    shown = matrix(ten_personas(), [cell], {cell.name: CellRate(state="waiting")})
    assert len(shown.columns) == 1
    assert not replace(cell, of="p9").plain


def row(cell: Cell, question: str | None = "0") -> RateRow:
    return RateRow(cell=cell, coefficient=0.0, question=question, fired=1, total=4)


def cell_of(**fields: object) -> Cell:
    usual = {
        "arm": "A",
        "persona": "p0",
        "prompt": "persona",
        "direction": "none",
        "layer": None,
        "strength": NONE,
    }
    return Cell(**usual | fields)  # pyright: ignore[reportArgumentType]


def bridge() -> list[RateRow]:
    return [row(cell_of(arm="C", persona=name)) for name in TEN]


def test_further_columns_are_written_only_where_they_are_used(tmp_path: Path) -> None:
    plain = format_rates(bridge())
    assert plain.splitlines()[0] == ",".join(COLUMNS)
    more = format_rates([*bridge(), row(cell_of(prompt_of="p3", seed=2))])
    lines = more.splitlines()
    assert lines[0] == ",".join((*COLUMNS, "prompt_of", "seed"))
    assert [line + ",," for line in plain.splitlines()[1:]] == lines[1:11]
    assert lines[11].endswith(",1,4,p3,2")


def test_every_further_field_survives_the_table(tmp_path: Path) -> None:
    steered_cell = replace(
        cell_of(),
        direction="centroid",
        layer=1,
        strength=Strength.parse("c=+1"),
        operation="remove",
        of="p2",
    )
    cells = [
        steered_cell,
        replace(steered_cell, draw=3, of=None),
        replace(steered_cell, tokens="last_prompt", seed=1),
        cell_of(prompt_of="helpful_assistant"),
    ]
    rows = [*bridge(), *(replace(row(c), coefficient=float(c.layer or 0)) for c in cells)]
    path = tmp_path / "rates.csv"
    path.write_text(format_rates(rows))
    assert read_rates(path, ten_personas()) == table_of(rows)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("direction_of", "p2", "direction_of 'p2' with direction 'none'; leave it empty"),
        ("prompt_of", "p22", "did you mean 'p2'?"),
        ("draw", "first", "draw 'first' must be a whole number"),
        ("tokens", "half", "tokens 'half' is not one of all, prompt, generated, last_prompt"),
        ("operation", "ad", "did you mean 'add'?"),
    ],
)
def test_a_further_column_that_says_nothing_sensible_is_refused_at_its_line(
    column: str, value: str, words: str, tmp_path: Path
) -> None:
    lines = format_rates(bridge()).splitlines()
    path = tmp_path / "rates.csv"
    path.write_text(
        "\n".join([f"{lines[0]},{column}", f"{lines[1]},{value}", *[f"{x}," for x in lines[2:]]])
    )
    with pytest.raises(ExperimentError) as caught:
        read_rates(path, ten_personas())
    assert "rates.csv:2: " in str(caught.value)
    assert words in str(caught.value)


def test_ones_own_name_and_the_usual_words_are_the_same_cell_as_none(tmp_path: Path) -> None:
    lines = format_rates(bridge()).splitlines()
    more = [",p0,add,all", *([",,,"] * 9)]
    path = tmp_path / "rates.csv"
    header = f"{lines[0]},prompt_of,operation,tokens"
    path.write_text("\n".join([header, *(a + b for a, b in zip(lines[1:], more, strict=True))]))
    assert read_rates(path, ten_personas()) == table_of(bridge())


def test_a_prompt_of_somebody_else_is_no_bridge(tmp_path: Path) -> None:
    rows = [row(cell_of(arm="C", persona=name, prompt_of="helpful_assistant")) for name in TEN]
    path = tmp_path / "rates.csv"
    path.write_text(format_rates(rows))
    with pytest.raises(ExperimentError, match="no bridge"):
        read_rates(path, ten_personas())


def test_one_training_seeds_part_reads_as_a_table_of_its_own_with_the_base_models_cells() -> None:
    small = ten_personas()
    asked = ten_personas(seeds=(3, 7), arms=(*small.arms, Arm(name="base", untrained=True)))
    kind = steered("A", "c=+2")
    rows = rows_of(kind, dict(zip(TEN, RISING, strict=True)))
    again = [replace(r, cell=replace(r.cell, seed=7), fired=0) for r in rows]
    base = rows_of(replace(kind, arm="base"), dict.fromkeys(TEN, 0.5))
    whole = table_of([*rows, *again, *base])
    first, second = of_seed(whole, asked, 3), of_seed(whole, asked, 7)
    assert first == table_of([*rows, *base])
    assert second == table_of([*(replace(r, fired=0) for r in rows), *base])
    assert np.isclose(sum(c.rate for c in second.cells.values()), 5.0)
