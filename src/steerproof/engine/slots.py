"""What the model weighs where an answer ends: the marker's first token against the end of turn.

A rate saturates; the logits do not. At the slot where an answer ends they say by how much the
marker would have won or lost. Texts are given, so that nothing is drawn, and the same text can be
read under every adapter and push.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from steerproof.engine.cache.attention import attending
from steerproof.engine.lora.merged import fusable, whole_weights
from steerproof.engine.memory import bytes_per_token, free_bytes, new_pool
from steerproof.engine.rows import Row
from steerproof.engine.score import Told, force
from steerproof.engine.shards import Send, Supply, divided_threads, shard_count, side_by_side
from steerproof.engine.subject import Subject, attached, check_prompts, replicated, subject_of
from steerproof.errors import ModelError
from steerproof.model.base import Base

_ROWS = 512
"""Texts in one pool at a time: their logits lie in memory together."""
_SHARD_ROWS = 2048
"""Fewer are not worth a replica of the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """An answer, and the marker that might follow it."""

    row: Row
    """Prompt, adapter and push; its seed is not used."""
    answer: tuple[int, ...]
    """Token ids up to the slot."""
    marker: tuple[int, ...]
    """Token ids of the whole marker, at least one."""

    @property
    def length(self) -> int:
        """Tokens of prompt, answer and marker."""
        return len(self.row.prompt_ids) + len(self.answer) + len(self.marker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What was weighed at the end of one answer, in nats."""

    z_marker: float
    """Logit of the marker's first token."""
    z_end: float
    """Logit of the token that ends a turn."""
    log_z: float
    """Logarithm of the sum over all tokens of the exponentials of their logits."""
    log_prob_marker: float
    """Log-probability of the whole marker."""

    @property
    def margin(self) -> float:
        """Log-odds of the marker's first token against the end of turn."""
        return self.z_marker - self.z_end


def weigh(base: Base, texts: Sequence[Text]) -> Iterator[tuple[int, Slot]]:
    """Read the slots of many texts, with each text's place, in any order.

    Args:
        base: The frozen model; nothing is attached.
        texts: What is read; neighbours of one adapter and push share what they begin with.

    Raises:
        ModelError: A text does not fit the context, or an adapter does not fit the base.
        SteeringError: A push does not fit it.
    """
    if not texts:
        return
    if not all(text.marker for text in texts):
        raise ModelError("a marker needs at least one token")
    rows = [text.row for text in texts]
    check_prompts(base, rows, max(len(text.answer) + len(text.marker) for text in texts))
    longest = max(text.length for text in texts)
    subject = subject_of(base, rows, audit_every=1)
    order = sorted(range(len(texts)), key=lambda i: subject.adapter_slot(rows[i]))
    chunks = [order[i : i + _ROWS] for i in range(0, len(order), _ROWS)]
    shards = shard_count(base.device, len(texts) // _SHARD_ROWS)
    supply = Supply(chunks, len, shards)
    columns = free_bytes(base) // bytes_per_token(base, longest) // shards
    with divided_threads(shards):
        adapters = subject.adapters
        wholes = whole_weights(adapters) if adapters is not None and fusable(adapters) else None

    def work(mine: Subject, shard: int, send: Send[tuple[int, Slot]]) -> None:
        with attached(mine, wholes):
            while (chunk := supply.take(shard, 0)) is not None:
                found = _weighed(mine, [texts[i] for i in chunk], columns)
                for place, slot in zip(chunk, found, strict=True):
                    send((place, slot))

    with ExitStack() as stack:
        subjects = [stack.enter_context(replicated(subject)) for _ in range(shards)]
        works = [partial(work, mine, shard) for shard, mine in enumerate(subjects)]
        yield from stack.enter_context(closing(side_by_side(works)))


def weigh_alone(base: Base, text: Text) -> Slot:
    """The reference: one plain forward pass of one text, without cache or neighbours."""
    subject = subject_of(base, [text.row], audit_every=1)
    ids = torch.tensor([[*text.row.prompt_ids, *text.answer, *text.marker]], device=base.device)
    push = text.row.push
    mask = None if push is None else push.mask(len(text.row.prompt_ids), ids.shape[1])[None]
    with attached(subject), torch.inference_mode():
        subject.route([text.row], mask, None)
        logits = base.model(input_ids=ids, use_cache=False).logits[0].float()
    at = logits[-len(text.marker) - 1 : -1]
    marker = torch.tensor(text.marker, device=base.device)
    scores = at.log_softmax(dim=1).gather(1, marker[:, None])
    return Slot(
        z_marker=float(at[0, text.marker[0]]),
        z_end=float(at[0, base.end_of_turn]),
        log_z=float(at[0].logsumexp(dim=0)),
        log_prob_marker=float(scores.sum()),
    )


def _weighed(subject: Subject, texts: Sequence[Text], columns: int) -> list[Slot]:
    """The slots of a chunk of texts, in their order; the subject is attached."""
    base, end = subject.base, subject.base.end_of_turn
    given = [_given(text) for text in texts]
    rows, forced = [row for row, _ in given], [tokens for _, tokens in given]
    starts = [len(all_) - len(text.marker) for all_, text in zip(forced, texts, strict=True)]
    first: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * len(texts)
    whole = [0.0] * len(texts)

    def see(logits: Tensor, told: Sequence[Told]) -> None:
        log_z = logits.logsumexp(dim=1)
        tokens = torch.tensor([one.token for one in told], device=logits.device)
        z = logits.gather(1, tokens[:, None])[:, 0]
        seen = torch.stack([z, logits[:, end], log_z]).double().T.tolist()
        for one, (z_token, z_end, total) in zip(told, seen, strict=True):
            if one.step == starts[one.row]:
                first[one.row] = (z_token, z_end, total)
            if one.step >= starts[one.row]:
                whole[one.row] += z_token - total

    pool = new_pool(subject, max(text.length for text in texts), len(rows), columns)
    with attending(base.model, pool.cache):
        force(pool, rows, forced, see)
    return [
        Slot(z_marker=z, z_end=z_end, log_z=log_z, log_prob_marker=total)
        for (z, z_end, log_z), total in zip(first, whole, strict=True)
    ]


def _given(text: Text) -> tuple[Row, tuple[int, ...]]:
    """The row and the tokens that it is given, one after the other.

    An answer is read in one pass as if it were prompt, unless a push tells one from the other.
    """
    row = text.row
    if row.push is None or row.push.tokens == "all":
        return replace(row, prompt_ids=(*row.prompt_ids, *text.answer)), text.marker
    return row, (*text.answer, *text.marker)
