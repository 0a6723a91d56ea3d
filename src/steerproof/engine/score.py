"""Log-probabilities of given texts, teacher-forced: many adapters and pushes in one forward pass.

Nothing is generated, so nothing is cached: each text is computed in one pass with its prompt,
packed with those that begin alike (`prompts.py`). Logits are computed only where they are asked
for, and only what is read off them is kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steerproof.engine.cache.attention import PooledCache, attending
from steerproof.engine.cache.handed import handed
from steerproof.engine.memory import pass_tokens
from steerproof.engine.prompts import PackedPrompts, packed, packed_length
from steerproof.engine.rows import Row
from steerproof.engine.subject import (
    Subject,
    attached,
    faults,
    prompt_fault,
    raise_first,
    subject_of,
)
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.transfer import sent, unplanned_attention

# Logits that are computed at once: more would only cost memory.
_LOGITS = 2**26


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
    if not all(texts):
        raise ModelError("a text to be scored needs at least one token")
    asked = [
        ForcedPass(row=row, fed=tuple(text[:-1]), first=0)
        for row, text in zip(rows, texts, strict=True)
    ]
    scores: dict[int, Tensor] = {}
    for places, logits in read_logits(base, asked):
        parts = logits.split([len(asked[place].wanted) for place in places])
        for place, part in zip(places, parts, strict=True):
            told = torch.tensor(list(texts[place]), device=logits.device)
            scores[place] = log_probs(part, told).cpu()
    return [scores[place] for place in range(len(rows))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedPass:
    """One forward pass over a prompt and what follows it."""

    row: Row
    fed: tuple[int, ...]
    """Tokens after the prompt."""
    first: int
    """The first of them whose prediction is wanted, and those of all later tokens."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All that is fed."""
        return (*self.row.prompt_ids, *self.fed)

    @property
    def wanted(self) -> range:
        """The places in `ids` whose logits are wanted."""
        return range(
            len(self.row.prompt_ids) - 1 + self.first, len(self.row.prompt_ids) + len(self.fed)
        )


def log_probs(
    logits: Float[Tensor, "tokens vocab"], told: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Log-probabilities of the tokens that really follow."""
    return logits.gather(1, told[:, None])[:, 0] - logits.logsumexp(1)


def read_logits(base: Base, asked: Sequence[ForcedPass]) -> Iterator[tuple[list[int], Tensor]]:
    """The logits that are asked for, pass by pass, in any order.

    What is read off them should be kept, and they themselves forgotten.

    Args:
        base: The frozen model; nothing is attached.
        asked: What to compute.

    Yields:
        The places of what one pass was over, and its logits, float32 `[wanted, vocab]`: those of
        the first place, of the second, and so on.

    Raises:
        ModelError: A prompt is empty or too long, or an adapter does not fit the base.
        SteeringError: A push does not fit it.
    """
    if not asked:
        return
    rows = [one.row for one in asked]
    for one in asked:
        if (fault := prompt_fault(base, one.row, len(one.fed))) is not None:
            raise fault
    raise_first(faults(base, rows))
    subject = subject_of(base, rows, audit_every=1)
    order = sorted(
        range(len(asked)), key=lambda i: (subject.adapter_slot(asked[i].row), len(asked[i].ids))
    )
    cache = PooledCache(max(len(one.ids) for one in asked))
    with attached(subject), attending(base.model, cache.attend), unplanned_attention(base.device):
        for places in _batches(asked, order, base):
            yield places, _logits(subject, cache, [asked[i] for i in places])


def _batches(asked: Sequence[ForcedPass], order: Sequence[int], base: Base) -> Iterator[list[int]]:
    """Neighbours in an order, as many as one pass has room for."""
    vocab, most = head_of(base).weight.shape[0], pass_tokens(base.device, base.hidden_size)
    batch: list[int] = []
    widest = wanted = 0
    for i in order:
        widest, wanted = max(widest, len(asked[i].ids)), wanted + len(asked[i].wanted)
        if batch and (widest * (len(batch) + 1) > most or wanted * vocab > _LOGITS):
            yield batch
            batch, widest, wanted = [], len(asked[i].ids), len(asked[i].wanted)
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def _logits(subject: Subject, cache: PooledCache, asked: Sequence[ForcedPass]) -> Tensor:
    base, on = subject.base, subject.base.device
    rows = [one.row for one in asked]
    keys = [_sharing(one.row) for one in asked]
    prompts = packed(rows, keys, [one.ids for one in asked], packed_length(on), base.pad_id)
    cache.see(None if prompts.mask is None else torch.from_numpy(prompts.mask).to(on))
    subject.route(prompts.rows, torch.from_numpy(_pushed(prompts)), None)
    wanted = [path[k] for one, path in zip(asked, prompts.paths, strict=True) for k in one.wanted]
    with logits_at(base, sent(torch.tensor(wanted), on)):
        output: Any = base.model(
            input_ids=sent(torch.from_numpy(prompts.ids), on),
            position_ids=sent(torch.from_numpy(prompts.positions), on),
            **handed(base.model, cache),
            use_cache=True,
        )
    return output.logits[0].float()


def _sharing(row: Row) -> tuple[object, ...]:
    """What texts must have in common to share what they begin with: also where a push acts."""
    if row.push is None or row.push.tokens == "all":
        return row.adapter, row.push
    return row.adapter, row.push, row.prompt_ids


def _pushed(prompts: PackedPrompts) -> np.ndarray:
    """`[sequences, width]`, where the push of each sequence acts."""
    acts = prompts.real.copy()
    for row, positions, mask in zip(prompts.rows, prompts.positions, acts, strict=True):
        if row.push is not None and row.push.tokens != "all":
            longest = max(len(row.prompt_ids), int(positions.max()) + 1)
            mask &= row.push.mask(len(row.prompt_ids), longest).numpy()[positions]
    return acts


def head_of(base: Base) -> nn.Linear:
    """The layer that makes logits.

    Raises:
        ModelError: It is no plain linear layer.
    """
    head = base.model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(f"{type(base.model).__name__} has no linear output embeddings")
    return head


@contextmanager
def logits_at(base: Base, places: Tensor) -> Iterator[None]:
    """While inside, logits are computed at some places of the flattened rows alone."""

    def chosen(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].flatten(0, 1)[places][None], *args[1:])

    handle = head_of(base).register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()
