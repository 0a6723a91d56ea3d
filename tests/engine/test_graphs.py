"""Steps captured as graphs against steps that are not, on a GPU."""

import copy
from dataclasses import replace

import pytest
import torch

from steerproof.engine import pool
from steerproof.engine.generate import Limits, generate
from steerproof.engine.graphs import CapturedSteps
from steerproof.engine.lora.pool import LoraPool
from steerproof.model.base import base_of
from steerproof.model.steering import Steering
from tests.engine.subjects import SETTINGS, SPEC, mixed_rows, push_of, subject
from tests.tiny import HIDDEN

PUSHES = [push_of(slot, HIDDEN) for slot in range(1, 5)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on_gpu(made, dtype=torch.float32):
    """The same subject on a GPU."""
    device = torch.device("cuda")
    base = base_of(copy.deepcopy(made.base.model).to(device, dtype), made.base.tokenizer)
    adapters = LoraPool(base, slots=made.adapters.slots, spec=SPEC)
    for slot in sorted(made.adapters.loaded):
        adapters.load(slot, made.adapters.read(slot))
    steering = Steering(base.blocks, PUSHES, device=device, dtype=base.dtype, audit_every=1)
    return replace(made, base=base, adapters=adapters, steering=steering)


def texts(made, settings, rows, most=40):
    found = list(generate(made, rows, settings, limits=Limits(max_rows=most)))
    return {(c.cell, c.question, c.sample): (c.token_ids, c.finish) for c in found}


def test_off_a_gpu_every_step_is_simply_done():
    steps = CapturedSteps(torch.device("cpu"), lambda: pytest.fail("nothing is rehearsed"))
    done = []
    for size in (2, 2, 3):
        steps(size, lambda size=size: done.append(size))
    assert done == [2, 2, 3]


@needs_gpu
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_captured_steps_give_the_tokens_and_the_audit_of_plain_ones(architecture, monkeypatch):
    rows = mixed_rows(cells=8, questions=2, samples=3)
    settings = SETTINGS.model_copy(update={"max_new_tokens": 70})
    captured = on_gpu(subject(architecture))
    captures = []
    original = CapturedSteps._captured

    def counted(self, step):
        captures.append(step)
        return original(self, step)

    monkeypatch.setattr(CapturedSteps, "_captured", counted)
    got = texts(captured, settings, rows)
    assert len(captures) == 2

    def plain_steps(_device, rehearsing):
        return CapturedSteps(torch.device("cpu"), rehearsing)

    monkeypatch.setattr(pool, "CapturedSteps", plain_steps)
    plain = on_gpu(subject(architecture))
    assert texts(plain, settings, rows) == got
    ours, theirs = captured.steering.audit(), plain.steering.audit()
    assert ours.firings == theirs.firings
    for mine, other in zip(ours.slots, theirs.slots, strict=True):
        assert mine.positions == other.positions
        assert mine.push_norm == pytest.approx(other.push_norm, rel=1e-4)


@needs_gpu
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_the_pool_of_a_gpu_gives_the_tokens_of_a_cpu(architecture):
    rows = mixed_rows(cells=8, questions=2, samples=3)
    settings = SETTINGS.model_copy(update={"max_new_tokens": 30})
    expected = texts(subject(architecture), settings, rows)
    for most in (5, 1024):
        assert texts(on_gpu(subject(architecture)), settings, rows[::-1], most) == expected


@needs_gpu
def test_half_precision_is_as_near_to_float32_as_a_row_alone():
    from steerproof.engine.canary import log_probs, log_probs_alone

    made, text = on_gpu(subject("qwen2"), torch.bfloat16), list(range(3, 20))
    rows = [row for row in mixed_rows(cells=10) if row.question == 0 and row.sample == 0]
    pooled = torch.stack(log_probs(made, rows, [text] * len(rows)))
    alone = torch.stack([log_probs_alone(made, row, text) for row in rows])
    exact = torch.stack([log_probs_alone(subject("qwen2"), row, text) for row in rows])
    assert (pooled - exact).abs().max() < 2 * (alone - exact).abs().max()
