"""Slots at the end of answers: through the pool, alone, and by the plain definition."""

from dataclasses import fields, replace

import pytest
import torch

from steerproof.engine import score
from steerproof.engine.slots import Slot, SlotText, weigh
from steerproof.errors import ModelError
from steerproof.model.push import Push
from tests.engine.definition import weigh_alone
from tests.engine.subjects import PUSHED, Oracle, base_of, mixed_rows
from tests.tiny import HIDDEN

MARKER = (91, 90, 76, 84, 93)


def texts(architecture: str = "qwen2", cells: int = 10) -> list[SlotText]:
    """Answers of several lengths, the empty one among them."""
    rows = mixed_rows(architecture, cells=cells, questions=2, samples=1)
    answers = [tuple(range(40, 40 + 3 * (i % 4))) for i in range(len(rows))]
    return [
        SlotText(row=row, answer=a, marker=MARKER) for row, a in zip(rows, answers, strict=True)
    ]


def read(architecture: str, asked: list[SlotText]) -> list[Slot]:
    found = dict(weigh(base_of(architecture), asked))
    return [found[i] for i in range(len(asked))]


def close(ours: Slot, theirs: Slot, nats: float = 1e-3) -> bool:
    gaps = [abs(getattr(ours, f.name) - getattr(theirs, f.name)) for f in fields(Slot)]
    return max(gaps) < nats


def test_a_slot_is_what_the_definition_says_under_peft_and_a_plain_hook(tmp_path) -> None:
    oracle, asked = Oracle("llama", tmp_path), texts("llama")
    end = base_of("llama").chat.end_of_turn
    for text, ours in zip(asked, read("llama", asked), strict=True):
        ids = [*text.row.prompt_ids, *text.answer, *MARKER]
        logits = oracle.logits(text.row, ids).double()[-6:-1]
        scores = logits.log_softmax(dim=1)[torch.arange(5), torch.tensor(MARKER)]
        expected = Slot(
            z_marker=float(logits[0, MARKER[0]]),
            z_end=float(logits[0, end]),
            log_z=float(logits[0].exp().sum().log()),
            log_prob_marker=float(scores.sum()),
        )
        assert close(ours, expected)
        assert ours.margin == ours.z_marker - ours.z_end
        first = ours.z_marker - ours.log_z
        assert first == pytest.approx(float(scores[0]), abs=1e-3)


def test_the_pool_and_a_row_alone_agree_to_a_thousandth_of_a_nat() -> None:
    asked = texts()
    for text, ours in zip(asked, read("qwen2", asked), strict=True):
        assert close(ours, weigh_alone(base_of("qwen2"), text))


@pytest.mark.parametrize(("tokens", "logits"), [(1, 2**26), (8192, 1), (60, 3000)])
def test_how_much_is_computed_at_once_changes_nothing(
    tokens: int, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = texts()
    whole = read("qwen2", asked)
    monkeypatch.setattr(score, "pass_tokens", lambda *_: tokens)
    monkeypatch.setattr(score, "_LOGITS", logits)
    for ours, theirs in zip(read("qwen2", asked), whole, strict=True):
        assert close(ours, theirs, 1e-4)


def test_each_text_has_its_own_marker_however_long() -> None:
    asked = [replace(text, marker=MARKER[: 1 + i % 5]) for i, text in enumerate(texts())]
    for text, ours in zip(asked, read("qwen2", asked), strict=True):
        assert close(ours, weigh_alone(base_of("qwen2"), text))


@pytest.mark.parametrize("tokens", ["prompt", "last_prompt", "generated"])
def test_a_push_that_tells_prompt_from_answer_still_does(tokens) -> None:
    push = Push(layer=1, vector=torch.ones(HIDDEN), tokens=tokens)
    asked = [replace(text, row=replace(text.row, push=push)) for text in texts(cells=4)]
    everywhere = Push(layer=1, vector=torch.ones(HIDDEN))
    for text, ours in zip(asked, read("qwen2", asked), strict=True):
        assert close(ours, weigh_alone(base_of("qwen2"), text))
        other = replace(text, row=replace(text.row, push=everywhere))
        if text.answer:
            assert not close(ours, weigh_alone(base_of("qwen2"), other))


def test_nothing_is_read_of_nothing_and_a_marker_needs_a_token() -> None:
    assert list(weigh(base_of("qwen2"), [])) == []
    bare = SlotText(row=replace(texts()[0].row, push=PUSHED[0]), answer=(), marker=())
    with pytest.raises(ModelError, match="at least one token"):
        list(weigh(base_of("qwen2"), [bare]))
