"""The captured step on a GPU against the step that is not captured."""

import copy
from dataclasses import replace

import pytest
import torch

from steerproof.collect import pool
from steerproof.collect.generation import Limits, generate
from steerproof.collect.graphs import CapturedForward
from steerproof.model.base import base_of
from steerproof.model.lora import LoraPool
from steerproof.model.steering import Steering
from tests.collect.subjects import SETTINGS, SPEC, mixed_rows, push_of, subject
from tests.tiny import HIDDEN

PUSHES = [push_of(slot, HIDDEN) for slot in range(1, 5)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on_gpu(made):
    """The same subject on a GPU."""
    device = torch.device("cuda")
    base = base_of(copy.deepcopy(made.base.model).to(device), made.base.tokenizer)
    adapters = LoraPool(base, slots=made.adapters.slots, spec=SPEC)
    for slot in sorted(made.adapters.loaded):
        adapters.load(slot, made.adapters.read(slot))
    steering = Steering(base.blocks, PUSHES, device=device, dtype=base.dtype, audit_every=3)
    return replace(made, base=base, adapters=adapters, steering=steering)


def texts(made, settings, rows):
    found = list(generate(made, rows, settings, limits=Limits(max_rows=20)))
    return {(c.cell, c.question, c.sample): (c.token_ids, c.finish) for c in found}


def test_on_a_cpu_nothing_is_captured():
    forward = CapturedForward(torch.device("cpu"))
    calls = []
    for step in range(3):
        assert forward(lambda step=step: calls.append(step) or torch.tensor(step)) == step
    assert calls == [0, 1, 2]


@needs_gpu
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_captured_steps_give_the_tokens_and_the_audit_of_plain_ones(architecture, monkeypatch):
    rows = mixed_rows(cells=8, questions=2, samples=3)
    settings = SETTINGS.model_copy(update={"max_new_tokens": 70})
    captured = on_gpu(subject(architecture))
    captures = []
    original = CapturedForward._captured

    def counted(self, forward):
        captures.append(forward)
        return original(self, forward)

    monkeypatch.setattr(CapturedForward, "_captured", counted)
    got = texts(captured, settings, rows)
    assert 3 <= len(captures) < 60
    plain = on_gpu(subject(architecture))
    monkeypatch.setattr(
        pool, "CapturedForward", lambda _device: CapturedForward(torch.device("cpu"))
    )
    assert texts(plain, settings, rows) == got
    ours, theirs = captured.steering.audit(), plain.steering.audit()
    assert ours.firings == theirs.firings
    for mine, other in zip(ours.slots, theirs.slots, strict=True):
        assert mine.push_norm == pytest.approx(other.push_norm, rel=1e-4)
    assert texts(on_gpu(subject(architecture)), settings, rows[::-1]) == got
