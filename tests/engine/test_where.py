"""Pushes that act at some tokens only, or remove: in the pool as in a plain pass of a row alone."""

from dataclasses import replace

import pytest
import torch

from steerproof.engine.generate import Drawn, Engine
from steerproof.engine.rows import Row
from steerproof.engine.score import score
from steerproof.model.base import Base
from steerproof.model.steering import Push
from tests.engine.definition import score_alone
from tests.engine.subjects import SETTINGS, base_of, mixed_rows
from tests.tiny import HIDDEN

TEXT = (10, 20, 30, 40, 50)
WHERE = ("all", "prompt", "last_prompt", "generated")


def vector(seed: int) -> torch.Tensor:
    return torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))


PUSHES = (
    None,
    *(Push(layer=1, vector=vector(1), tokens=tokens) for tokens in WHERE),
    *(Push(layer=2, vector=vector(2), tokens=tokens, removes=1.0) for tokens in WHERE),
)


def rows(architecture: str = "qwen2", samples: int = 1) -> list[Row]:
    """Cells that differ in where they are pushed, next to one another in the pool."""
    made = mixed_rows(architecture, cells=len(PUSHES), questions=2, samples=samples)
    return [replace(row, push=PUSHES[int(row.cell[1:])], adapter=None) for row in made]


@torch.no_grad()
def by_hand(base: Base, row: Row, text: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of a text under a plain hook on a slice of the positions."""
    ids, prompt = torch.tensor([[*row.prompt_ids, *text]]), len(row.prompt_ids)
    push, handle = row.push, None
    if push is not None:
        at = {
            "all": slice(None),
            "prompt": slice(prompt),
            "last_prompt": slice(prompt - 1, prompt),
            "generated": slice(prompt, None),
        }[push.tokens]
        v = push.vector

        def change(_module, _args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            part = hidden[:, at]
            removed = push.removes * (part @ v)[..., None] * v / (v @ v)
            hidden[:, at] = part - removed if push.removes else part + v
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = base.blocks[push.layer].register_forward_hook(change)
    logits = base.model(input_ids=ids, use_cache=False).logits[0, prompt - 1 : -1]
    if handle is not None:
        handle.remove()
    return logits.log_softmax(dim=1).gather(1, torch.tensor(text)[:, None])[:, 0]


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
def test_scores_in_the_pool_and_alone_equal_a_plain_hook_on_those_positions(
    architecture: str,
) -> None:
    base, asked = base_of(architecture), rows(architecture)
    pooled = score(base, asked, [TEXT] * len(asked))
    for row, ours in zip(asked, pooled, strict=True):
        expected = by_hand(base, row, TEXT)
        torch.testing.assert_close(ours, expected, atol=5e-5, rtol=1e-5)
        torch.testing.assert_close(score_alone(base, row, TEXT), expected, atol=5e-5, rtol=1e-5)


def test_every_place_gives_other_scores_than_every_other() -> None:
    base = base_of("qwen2")
    first = [row for row in rows() if row.question == 0]
    same = [replace(row, prompt_ids=(1, 2, 3, 4)) for row in first]
    scores = torch.stack(score(base, same, [TEXT] * len(same)))
    gaps = (scores[:, None] - scores[None]).abs().amax(-1) + torch.eye(len(same))
    assert float(gaps.min()) > 1e-4


def drawn(engine: Engine) -> dict[tuple[str, int, int], Drawn]:
    found = list(engine.generate(SETTINGS))
    return {(one.row.cell, one.row.question, one.row.sample): one for one in found}


def test_a_row_draws_the_same_text_alone_as_among_rows_pushed_elsewhere() -> None:
    base, asked = base_of("qwen2"), rows(samples=3)
    together = drawn(Engine(base, asked))
    for row in asked:
        alone = drawn(Engine(base, [row]))
        name = (row.cell, row.question, row.sample)
        assert alone[name].token_ids == together[name].token_ids


def test_what_acts_at_a_few_tokens_is_measured_there() -> None:
    base, asked = base_of("qwen2"), rows()
    engine = Engine(base, asked)
    drawn(engine)
    last = next(row for row in asked if row.push is not None and row.push.tokens == "last_prompt")
    assert last.push is not None
    (seen,) = engine.audit(last.push)
    assert seen.positions == 2  # One token of each of two questions.
    assert seen.push_norm == pytest.approx(float(last.push.vector.norm()), rel=1e-5)
