"""The reference: log-probabilities of a text in plain forward passes, as of each row alone.

No cache, no packing, no fused kernels: what makes the pool quick has no part in it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from steerproof.engine.fit import shared_rotary
from steerproof.engine.memory import pass_tokens
from steerproof.engine.rows import Row
from steerproof.engine.score import head_of, log_probs, logits_at
from steerproof.engine.subject import Subject
from steerproof.model.base import Base
from steerproof.model.transfer import sent

_LOGITS = 2**29
"""Of one pass on a GPU: 1 GiB in half precision, and seldom more than one pass."""
_WIDENED = 2**26
"""Logits that are widened at once."""
_AT_ONCE = 32
"""Most rows of one pass on a CPU; on a GPU launches would take longer than computing."""
_PADDED = 1.25
"""So many times as long as the shortest row may the longest of a pass on a CPU be: padding is
computed there too. On a GPU it takes less time than another pass does to launch."""


def log_probs_alone(subject: Subject, rows: Sequence[Row], text: Sequence[int]) -> list[Tensor]:
    """A text's log-probabilities after the rows' prompts, without a cache.

    Rows of several lengths go together, padded at their ends: no token of a causal model sees what
    stands after it, so each row is computed as if alone.

    Args:
        subject: Base, adapters and steering, not attached.
        rows: Where the text stands; seeds are not used.
        text: Token ids, at least one.

    Returns:
        For each row, float32 `[tokens]`.
    """
    by_row: dict[int, Tensor] = {}
    with _plainly_attached(subject):
        for batch in _plain_batches(subject.base, rows, len(text)):
            batch.sort(key=lambda i: subject.adapter_slot(rows[i]))
            scores = _plain_pass(subject, [rows[i] for i in batch], text)
            by_row.update(zip(batch, scores, strict=True))
    return [by_row[i] for i in range(len(rows))]


def _plain_batches(base: Base, rows: Sequence[Row], text: int) -> Iterator[list[int]]:
    """Places of the rows of each plain pass with a text of so many tokens, the shortest first."""
    batch: list[int] = []
    widest = 0.0
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i].prompt_ids)):
        length = len(rows[i].prompt_ids) + text
        if batch and (length > widest or len(batch) >= _rows_at_once(base, length, text)):
            yield batch
            batch = []
        if not batch:
            widest = _widest(base, length)
        batch.append(i)
    if batch:
        yield batch


def _widest(base: Base, length: int) -> float:
    """The longest row that may go with one of this length, so that each is rotated as if alone."""
    own = shared_rotary(base.model.config.get_text_config(decoder=True)) or math.inf
    padded = math.inf if base.device.type == "cuda" else _PADDED * length
    return float(max(length, min(own, padded)))


def _rows_at_once(base: Base, length: int, wanted: int) -> int:
    """Rows of one plain pass of so many tokens each, padding included; so many have logits."""
    if base.device.type != "cuda":
        return _AT_ONCE
    vocab, tokens = head_of(base).weight.shape[0], pass_tokens(base.device, base.hidden_size)
    return max(_AT_ONCE, min(tokens // length, _LOGITS // (wanted * vocab)))


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
    """Log-probabilities `[rows, tokens]` of rows in order of their adapters, padded at the end."""
    base, told = subject.base, len(text)
    ends = [len(row.prompt_ids) + told for row in rows]
    ids = torch.full((len(rows), max(ends)), base.pad_id)
    acting = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (row, end) in enumerate(zip(rows, ends, strict=True)):
        ids[i, :end] = torch.tensor([*row.prompt_ids, *text])
        acting[i, :end] = True if row.push is None else row.push.mask(end - told, end)
    subject.route(rows, acting, None)
    # The last logits that are wanted are those of the last token but one.
    first = torch.arange(len(rows)) * max(ends) + torch.tensor(ends) - told - 1
    wanted = (first[:, None] + torch.arange(told)).flatten()
    with logits_at(base, sent(wanted, base.device)):
        output = base.model(input_ids=sent(ids, base.device), use_cache=False)
    logits = output.logits[0]
    following = torch.tensor([*text] * len(rows), device=logits.device)
    # Widened a few at a time: all at once would take four times the memory of the logits.
    count = max(1, _WIDENED // logits.shape[1])
    pieces = zip(logits.split(count), following.split(count), strict=True)
    scores = torch.cat([log_probs(piece.float(), tokens) for piece, tokens in pieces])
    return scores.view(len(rows), told).cpu()
