"""Everything that is computed on a base, as numbers to compare between one device and several."""

from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from steerproof.door.steer import steer
from steerproof.engine.generate import Engine
from steerproof.engine.score import score
from steerproof.engine.slots import SlotText, weigh
from steerproof.engine.train import Pooling, TrainedAdapter
from steerproof.model.base import Base
from steerproof.study.directions import Prompts, extract
from tests.engine.subjects import PUSHED, SETTINGS, mixed_rows
from tests.engine.test_training import mixed_jobs, recipe, trained

PROMPTS = Prompts(
    personas={"a": "You are a cat.", "b": "You are a dog, and long of speech."},
    neutral="Answer.",
    questions=("Who are you?", "Why?"),
    headline=("a", "b"),
    reference="a",
)


def directions(base: Base) -> Any:
    """Residuals after every block."""
    layers = range(len(base.blocks))
    found = extract(base, PROMPTS, layers)
    return [x for layer in layers for x in (found[layer].by_persona, found[layer].neutral)]


def log_probs(base: Base, architecture: str) -> Any:
    """Of fixed texts under many adapters and pushes."""
    rows = mixed_rows(architecture, cells=8)
    return score(base, rows, [tuple(range(30, 36 + i % 3)) for i in range(len(rows))])


def completions(base: Base, architecture: str) -> Any:
    """Drawn tokens, and what the pushes were measured to do."""
    engine = Engine(base, mixed_rows(architecture, cells=8, samples=3), audit_every=1)
    drawn = {(d.row.cell, d.row.question, d.row.sample): d for d in engine.complete(SETTINGS)}
    audits = [engine.audit(push) for push in PUSHED[1:] if push in engine.subject.push_slots]
    tokens = [[key, drawn[key].token_ids, drawn[key].finish] for key in sorted(drawn)]
    return tokens, [[part.positions, part.ratio] for audit in audits for part in audit]


def canaries(base: Base, architecture: str) -> Any:
    """A text through the pool and alone."""
    seen = Engine(base, mixed_rows(architecture)).canaries(tuple(range(40, 70)))
    return [astuple(one) if not isinstance(one, Exception) else repr(one) for one in seen.values()]


def margins(base: Base, architecture: str) -> Any:
    """Of markers after answers of several lengths."""
    rows = mixed_rows(architecture, cells=6, samples=1)
    asked = [
        SlotText(row=row, answer=tuple(range(40, 40 + i % 4)), marker=(91, 90, 76))
        for i, row in enumerate(rows)
    ]
    found = dict(weigh(base, asked))
    return [list(astuple(found[i])) for i in range(len(asked))]


def training(base: Base, dropout: float = 0.3, pooling: Pooling | None = None) -> Any:
    """Of adapters with pushes: losses, gradients' norms, weights, and what pushes did."""
    found = trained(base, mixed_jobs(), recipe(dropout=dropout), pooling)
    ended = [one for _, one in sorted(found.items())]
    assert all(isinstance(one, TrainedAdapter) for one in ended), ended
    measured = [push.measured for one in ended for push in one.pushes]
    return [
        [one.losses for one in ended],
        [one.gradient_norms for one in ended],
        [list(one.weights.tensors.values()) for one in ended],
        [push.positions for push in measured],
        [push.ratio for push in measured],
    ]


def plain_generation(base: Base) -> Any:
    """Hugging Face's own `generate` under a push."""
    ids = torch.tensor([[40, 41, 42, 43]], device=base.device)
    push = PUSHED[2]
    assert push is not None
    with steer(base, push) as audit:
        out = base.model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=base.pad_id)
    return out.tolist(), audit.fired, audit.norm


def work(architecture: str) -> Mapping[str, Callable[[Base], Any]]:
    """By name what takes a base and gives numbers."""
    return {
        "directions": directions,
        "log-probabilities": lambda base: log_probs(base, architecture),
        "completions": lambda base: completions(base, architecture),
        "canaries": lambda base: canaries(base, architecture),
        "margins": lambda base: margins(base, architecture),
        "training": training,
        "training in pieces": lambda base: training(base, pooling=Pooling(tokens=64, adapters=2)),
        "training, recomputed": lambda base: training(base, pooling=Pooling(checkpointing=True)),
        "plain generation": plain_generation,
    }


def flat(found: Any) -> list[Any]:
    """All numbers and texts in a result, in order."""
    if isinstance(found, Tensor):
        return found.detach().double().cpu().flatten().tolist()
    if isinstance(found, (list, tuple)):
        return [x for one in found for x in flat(one)]
    return [found]
