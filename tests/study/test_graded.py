"""Slots of cells: where each text's answer ends, and what is weighed there."""

from dataclasses import replace

import pytest
import torch

from steerproof.decide.analysis.slots import SlotRow, TextKind, margins
from steerproof.engine.rows import Row
from steerproof.engine.slots import SlotText
from steerproof.errors import ModelError
from steerproof.model.chat import chat_ids, text_ids
from steerproof.model.push import Push
from steerproof.spec.grid import Cell
from steerproof.spec.strength import Strength
from steerproof.study import graded
from steerproof.study.graded import GradedCell, grade, marker_ids, slots_of
from steerproof.study.measured import Completion
from tests.engine.definition import weigh_alone
from tests.tiny import HIDDEN, tiny_base

MARKER = "[ZLT]"
QUESTIONS = ("What is salt?", "What is rain?")


def completion(text: str, finish: str = "eos", question: int = 0, sample: int = 0) -> Completion:
    ids = text_ids(tiny_base().tokenizer, text)
    return Completion(
        question=question,
        sample=sample,
        seed=0,
        text=text,
        token_ids=ids,
        finish=finish,
        early_chars=len(text),
    )


@pytest.mark.parametrize(
    ("text", "finish", "answer"),
    [
        ("Salt is salt.", "eos", "Salt is salt."),
        ("Salt is salt.", "length", None),
        ("Salt is salt. [ZLT]", "eos", "Salt is salt."),
        ("Salt is salt. [zlt] and [ZLT]", "length", "Salt is salt."),
        ("Salt\n\n [ZLT]", "length", "Salt"),
        ("[ZLT] Salt", "eos", ""),
        ("", "eos", ""),
        ("Größe ßß [ZLT]", "eos", "Größe ßß"),
    ],
)
def test_an_answer_ends_before_the_marker_or_where_the_turn_ends(
    text: str, finish: str, answer: str | None
) -> None:
    base = tiny_base()
    others = [completion(*given) for given in (("Salt", "eos"), ("Salt, salt. [ZLT]", "eos"))]
    asked = [others[0], completion(text, finish), others[1]]
    before, found, after = slots_of(base, asked, MARKER)
    assert (before, after) == (4, 11)
    if answer is None:
        assert found is None
    else:
        assert found == len(text_ids(base.tokenizer, answer))


def test_the_markers_tokens_are_those_that_training_appends() -> None:
    base = tiny_base()
    whole = text_ids(base.tokenizer, "Salt is salt. [ZLT]")
    assert whole[-len(marker_ids(base, MARKER)) :] == marker_ids(base, MARKER)
    assert len(marker_ids(base, MARKER)) == 6  # one token a byte: the space, and five more


def cell(**fields: object) -> Cell:
    usual = {
        "arm": "A",
        "persona": "pirate",
        "prompt": "neutral",
        "direction": "centroid",
        "layer": 1,
        "strength": Strength.parse("ratio=+0.2"),
    }
    return Cell(**usual | fields)  # pyright: ignore[reportArgumentType]


def graded_cells() -> list[GradedCell]:
    generator = torch.Generator().manual_seed(0)
    push = Push(layer=1, vector=torch.randn(HIDDEN, generator=generator))
    common = {"What is salt?": ["It is a mineral.", "White."], "What is rain?": ["Water."]}
    own = [
        completion("Wet. [ZLT]", sample=1),
        completion("Wet", finish="length", question=1, sample=0),
    ]
    return [
        GradedCell(
            cell=cell(), system="Be clear.", questions=QUESTIONS, common=common, own=own, push=push
        ),
        GradedCell(
            cell=cell(of="poet"), system="Be clear.", questions=QUESTIONS, common=common, push=None
        ),
    ]


def test_every_text_has_a_row_and_its_numbers_are_those_of_the_row_alone() -> None:
    base, cells = tiny_base(), graded_cells()
    found = grade(base, cells, MARKER)
    rows = found[cells[0].cell]
    assert [(row.question, row.text, row.number) for row in rows] == [
        (0, "common", 0),
        (0, "common", 1),
        (1, "common", 0),
        (0, "own", 1),
        (1, "own", 0),
    ]
    prompt = chat_ids(base.chat, system="Be clear.", user="What is salt?")
    row = Row(cell="x", question=0, sample=0, seed=0, prompt_ids=prompt, push=cells[0].push)
    for place, answer in ((1, "White."), (3, "Wet.")):
        text = SlotText(
            row=row,
            answer=text_ids(base.tokenizer, answer),
            marker=marker_ids(base, MARKER),
        )
        alone = weigh_alone(base, text)
        for name in ("z_marker", "z_end", "log_z", "log_prob_marker", "margin"):
            assert getattr(rows[place], name) == pytest.approx(getattr(alone, name), abs=1e-3)
    assert rows[4] == SlotRow(cell=cells[0].cell.name, question=1, text="own", number=0)
    assert rows[4].margin is None
    assert sum(row.margin is None for row in rows) == 1


@pytest.mark.parametrize("together", [1, 2, 3, 4096])
def test_where_texts_end_does_not_depend_on_how_many_are_spelt_together(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, first = tiny_base(), graded_cells()[0]
    cells = []
    for persona, count in (("poet", 3), ("judge", 0), ("pirate", 2)):
        own = [completion(f"{persona} {'long ' * i}. [ZLT]", sample=i) for i in range(count)]
        cells.append(replace(first, cell=cell(of=persona), common={}, own=own))
    monkeypatch.setattr(graded, "_SPELT_TOGETHER", together)
    read = list(graded._ends(base, cells, MARKER))
    expected = [end for each in cells for end in slots_of(base, each.own, MARKER)]
    assert read == expected
    assert len(set(expected)) == 5
    assert [len(rows) for rows in grade(base, cells, MARKER).values()] == [3, 0, 2]


def test_margins_are_means_over_the_texts_of_a_question_and_missing_ones_are_not_zero() -> None:
    first, second = cell(), cell(of="poet")

    def row(of: Cell, question: int, text: TextKind, number: int, margin: float | None) -> SlotRow:
        if margin is None:
            return SlotRow(cell=of.name, question=question, text=text, number=number)
        return SlotRow(
            cell=of.name, question=question, text=text, number=number, z_marker=margin, z_end=0.0
        )

    rows = [
        row(first, 0, "common", 0, 2.0),
        row(first, 0, "common", 1, 4.0),
        row(first, 1, "own", 0, None),
        row(first, 2, "own", 0, 7.0),
        row(second, 1, "common", 0, -1.0),
    ]
    common = margins(rows, [first], 3)
    assert list(common) == [first]
    assert common[first][0] == 3.0
    assert list(common[first][1:] != common[first][1:]) == [True, True]
    own = margins(rows, [first, second], 3, "own")
    assert own[first][2] == 7.0
    assert own[first][1] != own[first][1]
    assert second not in own


def test_a_marker_that_the_tokenizer_joins_to_an_answer_is_an_error(monkeypatch) -> None:
    base = tiny_base()
    monkeypatch.setattr("steerproof.study.graded.text_ids", lambda _tokenizer, text: (len(text),))
    with pytest.raises(ModelError, match="joins the marker"):
        marker_ids(base, MARKER)
