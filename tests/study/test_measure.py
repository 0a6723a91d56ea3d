"""Measuring cells: what a row depends on, what is checked, and whose failure a failure is."""

from dataclasses import replace

import pytest
import torch

from steerproof.engine import generate as engine
from steerproof.engine.generate import generate
from steerproof.engine.lora.weights import LoraSpec, LoraWeights, fresh_weights, lora_sites
from steerproof.engine.rows import Row
from steerproof.engine.sampling import row_seed
from steerproof.errors import ModelError, SteeringError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.model.push import Push
from steerproof.spec.experiment import Generation
from steerproof.spec.grid import Cell
from steerproof.spec.strength import Strength
from steerproof.study.measure import AskedCell, Outcome, measure
from steerproof.study.measured import MeasuredCell
from tests.tiny import HIDDEN, tiny_base

SETTINGS = Generation(samples=2, max_new_tokens=6)
QUESTIONS = ("What is salt made of?", "Why is the sea so blue today?")


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen2")


def adapter(base: Base, seed: int = 1) -> LoraWeights:
    """An adapter that changes the logits."""
    fresh = fresh_weights(lora_sites(base), LoraSpec(rank=2, alpha=4.0, rslora=True), seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(old.shape, generator=generator) * 0.1 if "lora_B" in name else old
        for name, old in fresh.tensors.items()
    }
    return replace(fresh, tensors=tensors)


def push(scale: float = 1.0) -> Push:
    vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3)) * scale
    return Push(layer=1, vector=vector, coefficient=2.0, ratio=0.3)


def asked(persona: str, **fields: object) -> AskedCell:
    """A cell of arm A along a centroid."""
    cell = Cell(
        arm="A",
        persona=persona,
        prompt="neutral",
        direction="centroid",
        layer=1,
        strength=Strength.parse("c=+2"),
    )
    given = {"system": "Be brief.", "questions": QUESTIONS, "samples": 2, "seed": 7}
    return AskedCell(cell=cell, early_tokens=3, **{**given, **fields})


def outcomes(base: Base, *cells: AskedCell) -> dict[str, Outcome]:
    return {one.cell.persona: outcome for one, outcome in measure(base, cells, SETTINGS)}


def test_a_cell_holds_the_texts_that_its_rows_have_alone_and_what_its_push_did(base):
    given, pushed = adapter(base), push()
    other = asked("b", adapter=adapter(base, 2))
    measured = outcomes(base, asked("a", adapter=given, push=pushed), other)["a"]
    assert isinstance(measured, MeasuredCell)
    name = measured.cell.name
    for completion in measured.completions:
        alone = Row(
            cell=name,
            question=completion.question,
            sample=completion.sample,
            seed=row_seed(7, name, completion.question, completion.sample),
            prompt_ids=chat_ids(base.chat, system="Be brief.", user=QUESTIONS[completion.question]),
            adapter=given,
            push=pushed,
        )
        (drawn,) = generate(base, [alone], SETTINGS)
        assert completion.token_ids == drawn.token_ids
        assert completion.text == base.tokenizer.decode(list(drawn.token_ids))
        head = base.tokenizer.decode(list(drawn.token_ids[:3]))
        assert completion.text[: completion.early_chars] == head
    places = [(done.question, done.sample) for done in measured.completions]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert (measured.coefficient, measured.ratio) == (2.0, 0.3)
    assert measured.achieved_norm == pytest.approx(float(pushed.vector.norm()), rel=1e-4)


def test_an_unsteered_cell_of_the_base_itself_has_no_push_to_report(base):
    measured = outcomes(base, asked("a"))["a"]
    assert isinstance(measured, MeasuredCell)
    assert (measured.coefficient, measured.ratio, measured.asked_norm) == (0.0, 0.0, 0.0)
    assert (measured.achieved_norm, measured.token_ratio) == (None, None)


def test_a_removal_has_a_share_and_no_ratio(base):
    removing = Push(layer=1, vector=push().vector, removes=1.0, coefficient=1.0)
    measured = outcomes(base, asked("a", push=removing))["a"]
    assert isinstance(measured, MeasuredCell)
    assert (measured.coefficient, measured.ratio, measured.asked_norm) == (1.0, None, None)
    assert measured.achieved_norm is not None
    assert measured.achieved_norm > 0


def spoilt(base: Base, value: float) -> LoraWeights:
    """An adapter with one weight that is not a number, or far too large."""
    given = adapter(base, 5)
    tensors = {name: tensor.clone() for name, tensor in given.tensors.items()}
    next(iter(tensors.values()))[0, 0] = value
    return replace(given, tensors=tensors)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda base: {"adapter": spoilt(base, float("nan"))}, ModelError),
        (lambda _: {"push": Push(layer=99, vector=torch.ones(HIDDEN))}, SteeringError),
        (lambda _: {"push": push(float("nan"))}, SteeringError),
        (lambda _: {"push": Push(layer=1, vector=torch.zeros(HIDDEN))}, SteeringError),
        (lambda _: {"questions": ("word " * 400,)}, ModelError),
        (lambda _: {"adapter": adapter(tiny_base("gpt2"))}, ModelError),
    ],
    ids=["nan adapter", "no such layer", "nan push", "zero push", "long prompt", "other model"],
)
def test_what_is_wrong_with_one_cell_is_its_own_failure_and_the_others_stay_as_they_are(
    base, bad, error
):
    good = [asked("a", adapter=adapter(base)), asked("b", push=push()), asked("c")]
    expected = outcomes(base, *good)
    found = outcomes(base, good[0], asked("bad", **bad(base)), *good[1:])
    assert isinstance(found.pop("bad"), error)
    for persona, outcome in expected.items():
        mine = found[persona]
        assert isinstance(mine, MeasuredCell)
        assert isinstance(outcome, MeasuredCell)
        assert mine.completions == outcome.completions


def test_more_adapters_than_memory_holds_are_measured_in_parts(base, monkeypatch):
    cells = [asked(name, adapter=adapter(base, seed)) for seed, name in enumerate("abcde", 1)]
    expected = outcomes(base, *cells)
    seen, most = [], 2
    plain = engine.subject_of

    def limited(base, rows, **named):
        count = len({row.adapter for row in rows})
        seen.append(count)
        if count > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(base, rows, **named)

    monkeypatch.setattr(engine, "subject_of", limited)
    found = outcomes(base, *cells)
    assert seen == [5, 3, 2, 1, 2]
    for persona, outcome in expected.items():
        mine = found[persona]
        assert isinstance(mine, MeasuredCell)
        assert isinstance(outcome, MeasuredCell)
        assert mine.completions == outcome.completions
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        outcomes(base, cells[0])


def test_a_push_that_arrives_otherwise_than_asked_is_an_error_and_no_rate(base, monkeypatch):
    monkeypatch.setattr("steerproof.study.measure.PUSH_TOLERANCE", -1.0)
    found = outcomes(base, asked("a", push=push()), asked("b"))
    assert isinstance(found["a"], SteeringError)
    assert "was asked for" in str(found["a"])
    assert isinstance(found["b"], MeasuredCell)
