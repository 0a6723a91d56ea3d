"""Plain passes of many rows against one row at a time, with weights merged and pushes by hand."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from steerproof.engine import alone
from steerproof.engine.alone import log_probs_alone
from steerproof.engine.canary import Canary, canaries
from steerproof.engine.exact import in_float32
from steerproof.engine.lora.weights import lora_sites
from steerproof.engine.rows import Row
from steerproof.engine.subject import subject_of
from steerproof.model.base import base_of
from steerproof.model.push import Push
from tests.engine.subjects import push_of, weights_of
from tests.tiny import ARCHITECTURES, FURTHER, HIDDEN, random_ids, tiny_model, tiny_tokenizer

TEXT = (10, 20, 30, 40, 50, 60, 70)
WHERE = ("all", "prompt", "last_prompt", "generated")
PUSH = Push(layer=1, vector=torch.ones(HIDDEN))
KINDS = [
    *((architecture, {}) for architecture in (*ARCHITECTURES, *FURTHER)),
    ("mistral", {"sliding_window": 12}),
    ("gemma3_text", {"sliding_window": 12}),
]
SHARED = [
    ("phi3", {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [8.0] * 4}),
    ("llama", {"rope_type": "dynamic", "factor": 4.0}),
]


def made_base(architecture="qwen2", dtype=torch.float32, **overrides):
    return base_of(tiny_model(architecture, dtype=dtype, **overrides), tiny_tokenizer())


def row_of(length, seed=0, adapter=None, push=None):
    prompt = tuple(random_ids(length, seed=seed).tolist())
    own = {"prompt_ids": prompt, "adapter": adapter, "push": push}
    return Row(cell=f"c{seed}", question=0, sample=0, seed=0, **own)


def pushes():
    """None, and one added and one removed for each of the places where a push may act."""
    removed = [replace(push_of(2, HIDDEN), tokens=tokens, removes=1.0) for tokens in WHERE]
    return [None, *(replace(push_of(1, HIDDEN), tokens=tokens) for tokens in WHERE), *removed]


def mixed(base):
    """Rows of many lengths, neighbours of which differ in adapter and push."""
    adapters, acting = [None, *(weights_of(base, slot) for slot in (1, 2, 3))], pushes()
    return [
        row_of(1 + 11 * i % 37, seed=i, adapter=adapters[i % 4], push=acting[i % len(acting)])
        for i in range(27)
    ]


def merged(base, adapter):
    """A copy of the model with an adapter in its weights."""
    model = copy.deepcopy(base.model)
    for site in lora_sites(base_of(model, base.tokenizer)) if adapter else ():
        a, b = (adapter.tensors[key].to(base.dtype) for key in site.keys)
        change = adapter.spec.scaling * b @ a
        site.module.weight += change if isinstance(site.module, nn.Linear) else change.T
    return model


@torch.no_grad()
def by_hand(base, row, text=TEXT):
    """The text's log-probabilities in a pass of this row and of nothing else."""
    model, prompt = merged(base, row.adapter), len(row.prompt_ids)
    if row.push is not None:
        v, removes = row.push.vector.to(base.dtype), row.push.removes
        at = {
            "all": slice(None),
            "prompt": slice(prompt),
            "last_prompt": slice(prompt - 1, prompt),
            "generated": slice(prompt, None),
        }[row.push.tokens]

        def change(_module, _args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            part = hidden[:, at]
            gone = removes * (part @ v)[..., None] * v / (v @ v)
            hidden[:, at] = part - gone if removes else part + v
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        base_of(model, base.tokenizer).blocks[row.push.layer].register_forward_hook(change)
    logits = model(input_ids=torch.tensor([[*row.prompt_ids, *text]]), use_cache=False).logits
    scores = logits[0, prompt - 1 : -1].log_softmax(dim=1)
    return scores.gather(1, torch.tensor(text)[:, None])[:, 0].float()


@pytest.fixture
def passes(request):
    """The shapes of a base's plain passes, those without a cache."""

    def counted(base):
        shapes = []

        def note(_module, _args, given):
            if not given["use_cache"]:
                shapes.append(tuple(given["input_ids"].shape))

        handle = base.model.register_forward_pre_hook(note, with_kwargs=True)
        request.addfinalizer(handle.remove)
        return shapes

    return counted


@pytest.mark.parametrize(("architecture", "overrides"), KINDS)
def test_rows_of_many_lengths_in_one_pass_are_each_as_if_alone(
    architecture, overrides, passes, monkeypatch
):
    monkeypatch.setattr(alone, "_PADDED", 100.0)
    base = made_base(architecture, torch.float64, **overrides)
    rows = mixed(base)
    shapes = passes(base)
    found = log_probs_alone(subject_of(base, rows, audit_every=1), rows, TEXT)
    assert shapes == [(len(rows), max(len(row.prompt_ids) for row in rows) + len(TEXT))]
    for row, ours in zip(rows, found, strict=True):
        torch.testing.assert_close(ours, by_hand(base, row), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("logits", [1, 260, 260 * 10])
def test_scores_do_not_depend_on_how_many_logits_are_widened_at_once(logits, monkeypatch):
    base = made_base()
    rows = mixed(base)
    made = subject_of(base, rows, audit_every=1)
    expected = log_probs_alone(made, rows, TEXT)
    monkeypatch.setattr(alone, "_WIDENED", logits)
    for ours, before in zip(log_probs_alone(made, rows, TEXT), expected, strict=True):
        torch.testing.assert_close(ours, before, atol=1e-6, rtol=0)


def test_in_half_precision_rows_of_many_lengths_are_rounded_as_much_as_alone(monkeypatch):
    monkeypatch.setattr(alone, "_PADDED", 100.0)
    base = made_base(dtype=torch.bfloat16)
    rows = mixed(base)
    made = subject_of(base, rows, audit_every=1)
    with in_float32(base) as wide:
        truth = log_probs_alone(subject_of(wide, rows, audit_every=1), rows, TEXT)
    together = log_probs_alone(made, rows, TEXT)
    apart = [log_probs_alone(made, [row], TEXT)[0] for row in rows]
    errors = [torch.stack(one) - torch.stack(truth) for one in (together, apart)]
    sizes = [float(error.square().mean().sqrt()) for error in errors]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_what_stands_behind_a_row_is_not_pushed(monkeypatch):
    monkeypatch.setattr(alone, "_PADDED", 100.0)
    base = made_base()
    rows = mixed(base)
    made = subject_of(base, rows, audit_every=1)
    log_probs_alone(made, rows, TEXT)
    acting = {
        "all": lambda prompt: prompt + len(TEXT),
        "prompt": lambda prompt: prompt,
        "last_prompt": lambda _: 1,
        "generated": lambda _: len(TEXT),
    }
    for push in {row.push for row in rows} - {None}:
        mine = [len(row.prompt_ids) for row in rows if row.push is push]
        (seen,) = made.audit(push)
        assert seen.positions == sum(acting[push.tokens](prompt) for prompt in mine)
        if not push.removes:
            assert seen.push_norm == pytest.approx(float(push.vector.norm()), rel=1e-4)


@pytest.mark.parametrize(("architecture", "rope"), SHARED)
def test_where_rotations_turn_on_the_longest_row_each_has_its_own(
    architecture, rope, passes, monkeypatch
):
    monkeypatch.setattr(alone, "_PADDED", 100.0)
    shared = {**rope, "rope_theta": 1e4, "original_max_position_embeddings": 30}
    overrides = {"rope_parameters": shared, "original_max_position_embeddings": 30}
    overrides["max_position_embeddings"] = 30 if rope["rope_type"] == "dynamic" else 256
    rows = [row_of(length, seed=i) for i, length in enumerate((40, 5, 24, 23, 60, 22, 40))]
    base = made_base(architecture, **overrides)
    shapes = passes(base)
    together = log_probs_alone(subject_of(base, rows, audit_every=1), rows, TEXT)
    assert shapes == [(3, 30), (1, 31), (2, 47), (1, 67)]
    for row, ours in zip(rows, together, strict=True):
        # A base for each: the rotations of longer rows stay until a short one comes.
        expected = by_hand(made_base(architecture, **overrides), row)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def cells_of(base, adapters=52, prompts=13):
    """A pushed row for each of some adapters, whose prompts are of so many lengths."""
    weights = [weights_of(base, slot) for slot in range(1, adapters + 1)]
    lengths = [30 + i % prompts for i in range(adapters)]
    return [
        row_of(length, seed=length, adapter=adapter, push=PUSH)
        for length, adapter in zip(lengths, weights, strict=True)
    ]


@pytest.fixture
def on_a_gpu():
    """A base that is said to be on a GPU, of which nothing is computed."""
    return replace(made_base(), device=torch.device("cuda"))


def test_on_a_gpu_rows_of_all_lengths_go_in_one_pass(on_a_gpu):
    rows = [row_of(length) for length in (*range(30, 150), 9)]
    (batch,) = alone._plain_batches(on_a_gpu, rows, 24)
    assert batch == [120, *range(120)]


def test_on_a_gpu_too_many_rows_for_one_pass_go_in_order_of_their_lengths(on_a_gpu, monkeypatch):
    monkeypatch.setattr(alone, "_LOGITS", 50 * 24 * 260)  # Room for 50 rows.
    rows = [row_of(30 + 5 * i % 13) for i in range(117)]
    batches = list(alone._plain_batches(on_a_gpu, rows, 24))
    assert [len(batch) for batch in batches] == [50, 50, 17]
    lengths = [[len(rows[i].prompt_ids) for i in batch] for batch in batches]
    assert all(max(one) <= min(other) for one, other in pairwise(lengths))


def test_on_a_cpu_little_is_padded_and_passes_are_few(passes):
    base = made_base()
    lengths = [*range(30, 43), *range(30, 43), *(20 for _ in range(40)), 100]
    rows = [row_of(length) for length in lengths]
    shapes = passes(base)
    log_probs_alone(subject_of(base, rows, audit_every=1), rows, TEXT)
    assert shapes == [(32, 27), (8, 27), (20, 39 + 7), (6, 42 + 7), (1, 107)]


def test_canaries_of_52_adapters_with_13_prompts_make_four_plain_passes(passes, monkeypatch):
    """As on a GPU: each row in half precision and in float32, and for each adapter with and without
    it whether it changes anything."""
    monkeypatch.setattr(alone, "_PADDED", 100.0)
    monkeypatch.setattr(alone, "_AT_ONCE", 1000)
    base = made_base(dtype=torch.bfloat16)
    rows = cells_of(base)
    shapes = passes(base)
    found = canaries(subject_of(base, rows, audit_every=1), rows, TEXT)
    assert all(isinstance(one, Canary) for one in found)
    probed, *plain = shapes  # By the pool, which looks at what its layers share.
    assert probed == (1, 1)
    assert plain == [(104, 49), (104, 49), (52, 37), (52, 37)]
