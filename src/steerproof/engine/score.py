"""Log-probabilities of given texts: teacher-forced, through the pool or one row at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerproof.engine.cache.attention import attending
from steerproof.engine.memory import bytes_per_token, free_bytes, new_pool
from steerproof.engine.pool import RowPool
from steerproof.engine.rows import Batch, Row
from steerproof.engine.subject import Subject, attached, check_prompts, subject_of
from steerproof.errors import ModelError
from steerproof.model.base import Base

_AT_ONCE = 32
"""Most rows of one plain pass."""


def score(base: Base, rows: Sequence[Row], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Log-probabilities of given texts after the rows' prompts, at temperature 1.

    Args:
        base: The frozen model; nothing is attached.
        rows: Where each text stands; seeds are not used.
        texts: Token ids, at least one each.

    Returns:
        For each row, float32 `[tokens]`, without a nucleus.

    Raises:
        ModelError: A prompt or a text is empty or too long, or an adapter does not fit the base.
        SteeringError: A push does not fit it.
    """
    if not rows:
        return []
    if not all(texts):
        raise ModelError("a text to be scored needs at least one token")
    check_prompts(base, rows, max(map(len, texts)))
    return log_probs(subject_of(base, rows, audit_every=1), rows, texts)


def score_alone(base: Base, row: Row, text: Sequence[int]) -> Tensor:
    """The reference: one plain forward pass of prompt and text, without cache or neighbours.

    Returns:
        float32 `[tokens]`.
    """
    return log_probs_alone(subject_of(base, [row], audit_every=1), [row], text)[0]


def log_probs(
    subject: Subject, rows: Sequence[Row], texts: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probabilities of given texts after the rows' prompts, all rows in one pool.

    Args:
        subject: base, adapters and steering, not attached.
        rows: where each text stands; seeds are not used.
        texts: token ids, at least one each.

    Returns:
        For each row, float32 `[tokens]`, at temperature 1 and without a nucleus.
    """
    longest = max(len(r.prompt_ids) + len(t) for r, t in zip(rows, texts, strict=True))
    found: list[list[Tensor]] = [[] for _ in rows]

    def see(logits: Tensor, told: Sequence[Told]) -> None:
        tokens = torch.tensor([one.token for one in told], device=logits.device)
        scores = logits.log_softmax(dim=1).gather(1, tokens[:, None])[:, 0]
        for score, one in zip(scores.cpu(), told, strict=True):
            found[one.row].append(score)

    columns = free_bytes(subject.base) // bytes_per_token(subject.base, longest)
    with attached(subject):
        pool = new_pool(subject, longest, len(rows), columns)
        with attending(subject.base.model, pool.cache):
            force(pool, rows, texts, see)
    return [torch.stack(scores) for scores in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A token that a row is given."""

    row: int
    """Place of the row among those that are scored."""
    step: int
    """Place of the token in the row's text."""
    token: int


def force(
    pool: RowPool,
    rows: Sequence[Row],
    texts: Sequence[Sequence[int]],
    see: Callable[[Tensor, Sequence[Told]], None],
) -> None:
    """Give rows their texts, token by token, in an empty pool.

    Args:
        pool: Attended to; it has pages for all the rows.
        rows: Seeds are not used.
        texts: Token ids, at least one each.
        see: Gets the logits before each token that is given, float32 `[tokens, vocab]`.
    """
    # A seed of its own tells the rows apart, whatever the caller's are.
    numbered = [replace(row, seed=i) for i, row in enumerate(rows)]

    def choose(logits: Tensor, batch: Batch) -> Tensor:
        owners = batch.owners.tolist()
        drawn = [len(batch.branches[owner].tokens) for owner in owners]
        # A row that has ended stays in the batch for a few steps: it is fed its last token.
        given = [
            Told(row=row.seed, step=n, token=texts[row.seed][min(n, len(texts[row.seed]) - 1)])
            for row, n in zip(batch.rows, drawn, strict=True)
        ]
        live = [i for i, one in enumerate(given) if one.step < len(texts[one.row])]
        at = torch.tensor([owners[i] for i in live], device=logits.device)
        see(logits.index_select(0, at).float(), [given[i] for i in live])
        return torch.tensor([one.token for one in given], device=logits.device)

    pool.admit([[row] for row in numbered])
    while pool.rows:
        for branch in pool.step(choose):
            if len(branch.tokens) == len(texts[branch.rows[0].seed]):
                pool.end(branch)


def log_probs_alone(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> list[Tensor]:
    """The reference: plain forward passes of prompt and text, without a cache.

    Rows whose prompts are of one length go together, unpadded: each is computed as if alone.

    Args:
        subject: Base, adapters and steering, not attached.
        rows: Where the text stands; seeds are not used.
        text: Token ids, at least one.

    Returns:
        For each row, float32 `[tokens]`.
    """
    found: dict[int, Tensor] = {}
    lengths: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        lengths.setdefault(len(row.prompt_ids), []).append(i)
    with _plainly_attached(subject):
        for places in lengths.values():
            places.sort(key=lambda i: subject.adapter_slot(rows[i]))
            for start in range(0, len(places), _AT_ONCE):
                batch = places[start : start + _AT_ONCE]
                scores = _plain_pass(subject, [rows[i] for i in batch], text)
                found.update(zip(batch, scores, strict=True))
    return [found[i] for i in range(len(rows))]


@contextmanager
def _plainly_attached(subject: Subject) -> Iterator[None]:
    """Adapters and steering, and none of what makes the pool quick: a reference owes it nothing."""
    with ExitStack() as stack:
        if subject.adapters is not None:
            stack.enter_context(subject.adapters.attach())
        if subject.steering is not None:
            stack.enter_context(subject.steering.attach())
        yield


@torch.inference_mode()
def _plain_pass(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> Tensor:
    """Log-probabilities `[rows, tokens]`; prompts of one length, in order of their adapters."""
    device = subject.base.device
    ids = torch.tensor([[*row.prompt_ids, *text] for row in rows], device=device)
    prompt, length = ids.shape[1] - len(text), ids.shape[1]
    everywhere = torch.ones(length, dtype=torch.bool)
    acting = [everywhere if r.push is None else r.push.mask(prompt, length) for r in rows]
    subject.route(rows, torch.stack(acting), None)
    output = subject.base.model(input_ids=ids, use_cache=False, logits_to_keep=len(text) + 1)
    scores = output.logits[:, :-1].float().log_softmax(dim=-1)
    return scores.gather(2, ids[:, -len(text) :, None])[:, :, 0].cpu()
