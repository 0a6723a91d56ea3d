"""Steps captured as graphs against steps that are not, on a GPU."""

import copy

import pytest
import torch

from steerproof.engine import runner
from steerproof.engine.generate import Engine, Limits
from steerproof.engine.graphs import CapturedSteps
from steerproof.engine.score import score
from steerproof.model.base import base_of
from tests.engine import subjects
from tests.engine.definition import score_alone
from tests.engine.subjects import SETTINGS, mixed_rows

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on_gpu(architecture, dtype=torch.float32):
    """The same base on a GPU."""
    base = subjects.base_of(architecture)
    return base_of(copy.deepcopy(base.model).to("cuda", dtype), base.tokenizer)


def texts(engine, settings, most=40):
    found = list(engine.generate(settings, limits=Limits(max_rows=most)))
    return {(c.row.cell, c.row.question, c.row.sample): (c.token_ids, c.finish) for c in found}


def test_off_a_gpu_every_step_is_simply_done():
    steps = CapturedSteps([torch.device("cpu")])
    done = []
    for size in (2, 2, 3):
        steps(size, lambda size=size: done.append(size))
    assert done == [2, 2, 3]


@needs_gpu
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_captured_steps_give_the_tokens_and_the_audit_of_plain_ones(architecture, monkeypatch):
    rows = mixed_rows(architecture, cells=8, questions=2, samples=3)
    settings = SETTINGS.model_copy(update={"max_new_tokens": 70})
    captured = Engine(on_gpu(architecture), rows, audit_every=1)
    captures = []
    original = CapturedSteps._captured

    def counted(self, step):
        captures.append(step)
        return original(self, step)

    monkeypatch.setattr(CapturedSteps, "_captured", counted)
    got = texts(captured, settings)
    assert captures

    def plain_steps(_device):
        return CapturedSteps([torch.device("cpu")])

    monkeypatch.setattr(runner, "CapturedSteps", plain_steps)
    plain = Engine(on_gpu(architecture), rows, audit_every=1)
    assert texts(plain, settings) == got
    ours, theirs = (one.subject.steering.audit() for one in (captured, plain))
    assert ours.firings == theirs.firings
    for mine, other in zip(ours.slots, theirs.slots, strict=True):
        assert mine.positions == other.positions
        assert mine.push_norm == pytest.approx(other.push_norm, rel=1e-4)


@needs_gpu
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_the_pool_of_a_gpu_gives_the_tokens_of_a_cpu(architecture):
    rows = mixed_rows(architecture, cells=8, questions=2, samples=3)
    settings = SETTINGS.model_copy(update={"max_new_tokens": 30})
    expected = texts(Engine(subjects.base_of(architecture), rows), settings)
    for most in (5, 1024):
        assert texts(Engine(on_gpu(architecture), rows[::-1]), settings, most) == expected


@needs_gpu
def test_half_precision_is_as_near_to_float32_as_a_row_alone():
    base, text = on_gpu("qwen2", torch.bfloat16), list(range(3, 20))
    rows = [row for row in mixed_rows(cells=10) if row.question == 0 and row.sample == 0]
    pooled = torch.stack(score(base, rows, [text] * len(rows)))
    alone = torch.stack([score_alone(base, row, text) for row in rows])
    exact = torch.stack([score_alone(subjects.base_of("qwen2"), row, text) for row in rows])
    assert (pooled - exact).abs().max() < 2 * (alone - exact).abs().max()
