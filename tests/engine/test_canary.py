"""Teacher-forced scores through the pool against PEFT and a plain hook, and canaries that die."""

from dataclasses import replace

import pytest
import torch

from steerproof.engine.canary import canaries
from steerproof.engine.score import log_probs, log_probs_alone, score
from steerproof.engine.subject import subject_of
from steerproof.errors import ModelError, SteeringError
from steerproof.model.steering import Push
from tests.engine.subjects import PUSHED, PUSHES, Oracle, base_of, mixed_rows, subject
from tests.tiny import HIDDEN

TEXT = (10, 20, 30, 40, 50, 60, 70)


def one_per_cell(architecture="qwen2"):
    return mixed_rows(architecture, cells=10, questions=1, samples=1)


def repushed(pushes, dtype=torch.float32):
    """A subject, and a row per cell, with other pushes in the places of the random ones."""
    rows = [replace(row, push=pushes[PUSHED.index(row.push)]) for row in one_per_cell()]
    return subject_of(base_of("qwen2", dtype), rows, audit_every=1), rows


def test_scores_in_the_pool_equal_peft_with_a_plain_hook(tmp_path):
    oracle = Oracle("llama", tmp_path)
    rows = one_per_cell("llama")
    texts = [TEXT[: 1 + i % 7] for i in range(len(rows))]
    for row, text, ours in zip(rows, texts, score(base_of("llama"), rows, texts), strict=True):
        logits = oracle.logits(row, [*row.prompt_ids, *text])
        theirs = logits.log_softmax(dim=1)[len(row.prompt_ids) - 1 : -1]
        expected = theirs.gather(1, torch.tensor(text)[:, None])[:, 0]
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)


def test_in_bfloat16_the_pool_and_a_row_alone_agree_within_the_tolerance():
    made = subject("qwen2", torch.bfloat16)
    rows = one_per_cell()
    pooled = log_probs(made, rows, [TEXT] * len(rows))
    alone = [log_probs_alone(made, row, TEXT) for row in rows]
    error = max(float((a - b).abs().max()) for a, b in zip(pooled, alone, strict=True))
    assert 0.0 < error < 0.5


def test_canaries_report_the_change_and_the_error_of_each_cell():
    found = canaries(subject("qwen2"), one_per_cell(), TEXT)
    assert [c.cell for c in found] == [f"c{i}" for i in range(10)]
    for canary, row in zip(found, one_per_cell(), strict=True):
        assert (canary.change is None) == (row.push is None)
        assert canary.change is None or canary.change > 0.1
        assert canary.follows is None or abs(canary.follows - 1) < 1e-3
        assert canary.error < 1e-4


def test_a_push_that_does_nothing_kills_its_canary():
    nothing = [Push(layer=1, vector=torch.zeros(HIDDEN)) for _ in range(PUSHES)]
    dead, rows = repushed([None, *nothing])
    with pytest.raises(SteeringError, match="c1: the push changes a fixed text by 0 nats in the"):
        canaries(dead, rows, TEXT)


def test_a_pool_that_computes_something_else_kills_the_canary(monkeypatch):
    made = subject("qwen2")
    monkeypatch.setattr(
        "steerproof.engine.canary.log_probs_alone",
        lambda *_: log_probs(made, one_per_cell()[:1], [TEXT])[0] + 0.01,
    )
    with pytest.raises(ModelError, match=r"differs by 0\.01 nats .* 10 times what is allowed"):
        canaries(made, one_per_cell()[:1], TEXT)


def small_pushes(factor=1.0):
    """A subject in bfloat16 whose pushes change less than its rounding allows for, and rows."""
    generator = torch.Generator().manual_seed(0)
    pushes = [
        Push(layer=1, vector=torch.randn(HIDDEN, generator=generator) * 0.05 * factor)
        for _ in range(PUSHES)
    ]
    made, rows = repushed([None, *pushes], torch.bfloat16)
    return made, [row for row in rows if row.push is not None]


def test_in_half_precision_a_small_push_is_told_from_rounding():
    for canary in canaries(*small_pushes(), TEXT):
        assert 0.5 < canary.follows < 1.5


@pytest.mark.parametrize("factor", [0.0, 0.25, -1.0, 3.0])
def test_in_half_precision_another_push_kills_the_canary_within_the_tolerance(factor, monkeypatch):
    made, rows = small_pushes()
    other, others = small_pushes(factor)

    def score_others(_, asked, texts):
        pushes = [None if row.push is None else others[0].push for row in asked]
        swapped = [replace(row, push=push) for row, push in zip(asked, pushes, strict=True)]
        return log_probs(other, swapped, texts)

    monkeypatch.setattr("steerproof.engine.canary.log_probs", score_others)
    with pytest.raises(SteeringError, match="the push changes a fixed text"):
        canaries(made, rows[:1], TEXT)


def test_a_canary_needs_a_text():
    with pytest.raises(ModelError, match="at least one token"):
        canaries(subject("qwen2"), one_per_cell(), ())
    assert base_of("qwen2").model.config._attn_implementation == "sdpa"
