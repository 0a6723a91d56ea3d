"""Teacher-forced scores through the pool against PEFT and a plain hook, and canaries that die."""

import copy
from dataclasses import replace

import pytest
import torch

from steerproof.engine.canary import Canary, canaries
from steerproof.engine.exact import in_float32
from steerproof.engine.forced import decoded_log_probs
from steerproof.engine.lora.weights import LoraSpec, fresh_weights, lora_sites
from steerproof.engine.rows import Row
from steerproof.engine.score import score
from steerproof.engine.subject import subject_of
from steerproof.errors import ModelError, SteeringError
from steerproof.model.base import load_base
from steerproof.model.chat import chat_ids, text_ids
from steerproof.model.fetch import fetch
from steerproof.model.steering import Push
from tests.engine.subjects import (
    PUSHED,
    PUSHES,
    SPEC,
    Oracle,
    base_of,
    mixed_rows,
    subject,
    weights_of,
)
from tests.tiny import HIDDEN

TEXT = (10, 20, 30, 40, 50, 60, 70)
LONG = tuple(range(10, 250, 10))


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


def test_the_truth_of_half_precision_is_a_float32_model_with_the_same_weights():
    base = base_of("qwen2", torch.bfloat16)
    before = {name: weight.data_ptr() for name, weight in base.model.named_parameters()}
    wide = copy.deepcopy(base.model).float()
    ids = torch.tensor([[*TEXT]])
    with in_float32(base) as same, torch.no_grad():
        assert same.dtype == torch.float32
        found = base.model(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(found, wide(input_ids=ids).logits)
        assert base.model(input_ids=ids).logits.dtype == torch.bfloat16
    assert before == {name: weight.data_ptr() for name, weight in base.model.named_parameters()}


def test_weights_come_back_when_a_pass_fails():
    base = base_of("qwen2", torch.bfloat16)
    with in_float32(base), pytest.raises(IndexError):
        base.model(input_ids=torch.tensor([[10_000]]))
    assert {weight.dtype for weight in base.model.parameters()} == {torch.bfloat16}


def test_canaries_report_the_change_and_the_error_of_each_cell():
    found = canaries(subject("qwen2"), one_per_cell(), TEXT)
    assert [c.cell for c in found] == [f"c{i}" for i in range(10)]
    for canary, row in zip(found, one_per_cell(), strict=True):
        assert canary.push == ("none" if row.push is None else "verified")
        assert (canary.change is None) == (row.push is None)
        assert canary.change is None or canary.change > 0.1
        assert canary.follows is None or abs(canary.follows - 1) < 1e-3
        assert canary.error < 1e-4


def test_how_many_adapters_are_in_float32_at_once_changes_no_canary(monkeypatch):
    made, rows, sizes = subject("qwen2", torch.bfloat16), one_per_cell(), []

    def counted(base, some, **how):
        sizes.append(len({row.adapter for row in some} - {None}))
        return subject_of(base, some, **how)

    monkeypatch.setattr("steerproof.engine.canary.subject_of", counted)
    together = canaries(made, rows, LONG)
    monkeypatch.setattr("steerproof.engine.canary._LEAST_ADAPTERS", 1)
    monkeypatch.setattr("steerproof.engine.canary._ADAPTER_BYTES", 0)
    for one, other in zip(together, canaries(made, rows, LONG), strict=True):
        assert isinstance(one, Canary)
        assert isinstance(other, Canary)
        assert one.error == pytest.approx(other.error, rel=1e-2)
    assert max(sizes) == sizes[0] > 1
    assert set(sizes[1:]) == {0, 1}


def test_rows_that_are_alike_without_their_push_are_scored_once(monkeypatch):
    asked = []

    def counted(made, rows, texts):
        asked.extend(rows)
        return decoded_log_probs(made, rows, texts)

    monkeypatch.setattr("steerproof.engine.canary.decoded_log_probs", counted)
    rows = one_per_cell()
    twice = [*rows, *(replace(row, cell=f"{row.cell}'") for row in rows)]
    found = canaries(subject("qwen2"), twice, TEXT)
    kinds = {(r.adapter, r.prompt_ids, p) for r in rows for p in (r.push, None)}
    assert len(asked) == len(kinds) < 2 * len(twice)
    assert [one.cell for one in found] == [row.cell for row in twice]
    assert [one.mean_log_prob for one in found[:10]] == [one.mean_log_prob for one in found[10:]]


def test_a_pool_that_computes_something_else_kills_its_canary_and_no_other(monkeypatch):
    def wrong(made, rows, texts):
        first, *others = decoded_log_probs(made, rows, texts)
        return [first + 0.01, *others]

    monkeypatch.setattr("steerproof.engine.canary.decoded_log_probs", wrong)
    first, *others = canaries(subject("qwen2"), one_per_cell(), TEXT)
    assert isinstance(first, ModelError)
    assert "c0: in the pool a fixed text differs by 0.01 nats" in str(first)
    assert all(isinstance(canary, Canary) for canary in others)


@pytest.mark.parametrize(("texts_off", "fails"), [({LONG}, False), (None, True)])
def test_in_half_precision_a_cell_fails_that_is_off_in_two_texts(texts_off, fails, monkeypatch):
    asked = []

    def off(made, rows, texts):
        asked.append((len(rows), texts[0]))
        return [
            scores + 1.0 * (row.cell == "c1" and (texts_off is None or text in texts_off))
            for row, text, scores in zip(
                rows, texts, decoded_log_probs(made, rows, texts), strict=True
            )
        ]

    monkeypatch.setattr("steerproof.engine.canary.decoded_log_probs", off)
    seen = canaries(subject("qwen2", torch.bfloat16), one_per_cell(), LONG)
    assert [
        row.cell
        for row, one in zip(one_per_cell(), seen, strict=True)
        if not isinstance(one, Canary)
    ] == ["c1"] * fails
    (_, first), (again, second) = asked
    assert again <= 2
    assert (first, second) == (LONG, (*LONG[12:], *LONG[:12]))


def sized_pushes(dtype, ratio, *, of=1.0, turned=False):
    """Rows with a push of a ratio of the residual's norm; `of` it, or in other directions."""
    base = base_of("qwen2", dtype)
    generator = torch.Generator().manual_seed(5 if turned else 0)
    with torch.no_grad():
        states = base.model(input_ids=torch.tensor([TEXT]), output_hidden_states=True)
    norm = float(states.hidden_states[2].float().norm(dim=-1).mean())
    directions = torch.randn(PUSHES, HIDDEN, generator=generator)
    vectors = directions / directions.norm(dim=1, keepdim=True) * ratio * norm * of
    pushes = [None, *(Push(layer=1, vector=vector) for vector in vectors)]
    made, rows = repushed(pushes, dtype)
    return made, [row for row in rows if row.push is not None]


HALF_AND_FULL = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@HALF_AND_FULL
def test_a_push_of_real_size_is_verified(dtype):
    for canary in canaries(*sized_pushes(dtype, 0.5), LONG):
        assert canary.push == "verified"
        assert abs(canary.follows - 1) < (1e-3 if dtype == torch.float32 else 0.2)


@HALF_AND_FULL
@pytest.mark.parametrize(
    "planted", [{"of": 0.0}, {"of": 0.25}, {"of": -1.0}, {"of": 3.0}, {"turned": True}]
)
def test_no_push_a_quarter_the_opposite_three_times_and_another_direction_are_found(
    dtype, planted, monkeypatch
):
    made, rows = sized_pushes(dtype, 0.5)
    other, others = sized_pushes(dtype, 0.5, **planted)
    swap = {row.push: another.push for row, another in zip(rows, others, strict=True)}

    def score_others(_, asked, texts):
        pushes = [None if row.push is None else swap[row.push] for row in asked]
        return decoded_log_probs(
            other, [replace(r, push=p) for r, p in zip(asked, pushes, strict=True)], texts
        )

    monkeypatch.setattr("steerproof.engine.canary.decoded_log_probs", score_others)
    for found in canaries(made, rows, LONG):
        assert isinstance(found, ModelError | SteeringError)


def test_a_push_that_rounding_hides_is_recorded_as_too_small_and_is_no_error():
    for canary in canaries(*sized_pushes(torch.bfloat16, 0.01), LONG):
        assert canary.push == "too small to verify here"
        assert canary.change < 5 * canary.rounding


def test_a_push_that_does_nothing_kills_its_canary():
    nothing = [Push(layer=1, vector=torch.zeros(HIDDEN)) for _ in range(PUSHES)]
    dead, rows = repushed([None, *nothing])
    found = canaries(dead, rows, TEXT)
    assert isinstance(found[0], Canary)
    assert isinstance(found[1], SteeringError)
    assert "c1: the push changes nothing in a fixed text" in str(found[1])


def test_an_adapter_that_gives_nan_fails_its_own_cells_only():
    rows = one_per_cell()
    bad = next(row.adapter for row in rows if row.adapter is not None)
    tensors = {name: torch.full_like(value, torch.nan) for name, value in bad.tensors.items()}
    broken = replace(bad, tensors=tensors)
    for dtype in (torch.float32, torch.bfloat16):
        mixed = [replace(r, adapter=broken) if r.adapter is bad else r for r in rows]
        made = subject_of(base_of("qwen2", dtype), mixed, audit_every=1)
        for row, found in zip(mixed, canaries(made, mixed, TEXT), strict=True):
            assert isinstance(found, ModelError) == (row.adapter is broken)


def test_an_adapter_that_changes_nothing_kills_the_canaries_of_its_cells_and_no_other():
    rows = one_per_cell()
    trained = next(row.adapter for row in rows if row.adapter is not None)
    fresh = fresh_weights(lora_sites(base_of("qwen2")), trained.spec, 1)
    rows = [replace(row, adapter=fresh) if row.adapter is trained else row for row in rows]
    for row, seen in zip(
        rows, canaries(subject_of(base_of("qwen2"), rows, audit_every=1), rows, TEXT), strict=True
    ):
        assert isinstance(seen, Canary) == (row.adapter is not fresh)
        assert isinstance(seen, Canary) or "changes nothing" in str(seen)


@HALF_AND_FULL
@pytest.mark.parametrize("prompts", [1, 5])
def test_adapters_that_change_nothing_are_found_wherever_they_stand(dtype, prompts):
    base = base_of("qwen2", dtype)
    trained = [weights_of(base, slot) for slot in range(1, 7)]
    fresh = [fresh_weights(lora_sites(base), SPEC, seed) for seed in range(6)]
    push = Push(layer=1, vector=torch.ones(HIDDEN))
    rows = [
        Row(cell=f"c{i}", question=0, sample=0, seed=0, prompt_ids=TEXT[: 3 + i % prompts],
            adapter=adapter, push=acting)
        for i, adapter in enumerate([*trained, *fresh])
        for acting in (push, 2.0 * push)
    ]  # fmt: skip
    found = canaries(subject_of(base, rows, audit_every=1), rows, LONG)
    for row, seen in zip(rows, found, strict=True):
        silent = "the adapter changes nothing in a fixed text" in str(seen)
        assert silent == (row.adapter in fresh)
        assert silent or isinstance(seen, Canary)


def test_a_canary_needs_a_text():
    with pytest.raises(ModelError, match="at least one token"):
        canaries(subject("qwen2"), one_per_cell(), ())
    assert base_of("qwen2").model.config._attn_implementation == "sdpa"


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_real_model_pushes_are_verified_and_wrong_ones_found(dtype, monkeypatch):
    fetch("smollm2", str)
    base = load_base("smollm2", dtype=dtype)
    questions = ["How do airplanes stay in the air?", "Why is exercise important?"]
    prompts = [chat_ids(base.chat, system="You are a villain.", user=text) for text in questions]
    text = text_ids(base.tokenizer, "Tell me about the history of tea, and how rice is cooked.")
    with torch.no_grad():
        states = base.model(input_ids=torch.tensor([prompts[0]]), output_hidden_states=True)
    residual = states.hidden_states[22][0, -1].float()
    generator = torch.Generator().manual_seed(0)
    spec = LoraSpec(rank=8, alpha=16.0, rslora=True)
    fresh = fresh_weights(lora_sites(base), spec, 1)
    adapter = replace(fresh, tensors={
        name: torch.randn(value.shape, generator=generator) * 0.003 if "lora_B" in name else value
        for name, value in fresh.tensors.items()
    })  # fmt: skip
    directions = torch.randn(3, base.hidden_size, generator=generator)
    directions *= 0.3 * residual.norm() / directions.norm(dim=1, keepdim=True)

    def rows_with(vectors):
        pushes = [Push(layer=21, vector=vector) for vector in vectors]
        return [
            Row(cell=f"c{i}{j}", question=0, sample=0, seed=0, prompt_ids=prompt, adapter=adapter,
                push=push)
            for i, push in enumerate(pushes) for j, prompt in enumerate(prompts)
        ]  # fmt: skip

    rows = rows_with(directions)
    made = subject_of(base, rows, audit_every=1)
    found = canaries(made, rows, text)
    assert [canary.push for canary in found] == ["verified"] * len(rows)
    planted = [directions * factor for factor in (0.0, 0.25, -1.0, 3.0)] + [directions.roll(1, 0)]
    for vectors in planted:
        others = rows_with(vectors)
        other = subject_of(base, others, audit_every=1)
        swap = {row.push: another.push for row, another in zip(rows, others, strict=True)}
        swap[None] = None
        monkeypatch.setattr(
            "steerproof.engine.canary.decoded_log_probs",
            lambda _, asked, texts, other=other, swap=swap: decoded_log_probs(
                other, [replace(row, push=swap[row.push]) for row in asked], texts
            ),
        )
        assert not any(isinstance(one, Canary) for one in canaries(made, rows, text))
