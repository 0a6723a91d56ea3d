"""Given texts, decoded token by token as `generate` draws its own: what a canary is scored by."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steerproof.engine.batching import Batching, Room
from steerproof.engine.cache.attention import attending
from steerproof.engine.memory import positions_within
from steerproof.engine.rows import Row
from steerproof.engine.runner import Choose, DecodeTensors
from steerproof.engine.sequences import Ending
from steerproof.engine.sequences import Sequence as Decoding
from steerproof.engine.subject import Subject, attached


def decoded_log_probs(
    subject: Subject, rows: Sequence[Row], texts: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probabilities of given texts after the rows' prompts, all rows in one batch.

    Args:
        subject: Base, adapters and steering, not attached.
        rows: Where each text stands; seeds are not used.
        texts: Token ids, at least one each.

    Returns:
        For each row, float32 `[tokens]`, at temperature 1 and without a nucleus.
    """
    longest = max(len(r.prompt_ids) + len(t) for r, t in zip(rows, texts, strict=True))
    # A seed of its own tells the rows apart, whatever the caller's are.
    numbered = [replace(row, seed=place) for place, row in enumerate(rows)]
    seen: list[list[Tensor]] = [[] for _ in rows]

    def choose(logits: Tensor, loaded: DecodeTensors) -> Tensor:
        sequences = loaded.batch.sequences
        told = [texts[sequence.rows[0].seed] for sequence in sequences]
        drawn = [len(sequence.tokens) for sequence in sequences]
        # One that has ended stays in the batch for a few steps: it is fed its last token.
        given = [text[min(n, len(text) - 1)] for text, n in zip(told, drawn, strict=True)]
        tokens = torch.tensor(given, device=logits.device)
        scores = logits.float().log_softmax(dim=1).gather(1, tokens[:, None])[:, 0].cpu()
        for score, sequence in zip(scores, sequences, strict=True):
            if sequence.finish is None:
                seen[sequence.rows[0].seed].append(score)
        return tokens

    def finish(sequence: Decoding) -> Ending | None:
        return "length" if len(sequence.tokens) == len(texts[sequence.rows[0].seed]) else None

    groups = [Decoding([row], subject.adapter_slot(row)) for row in numbered]
    _decode(subject, groups, longest, finish, choose)
    return [torch.stack(scores) for scores in seen]


def _decode(
    subject: Subject,
    groups: list[Decoding],
    longest: int,
    finish: Callable[[Decoding], Ending | None],
    choose: Choose,
) -> None:
    """Decode groups until all have ended."""
    base = subject.base
    positions = positions_within(base, longest)
    room = Room(rows=len(groups), positions=positions, longest=longest)
    with attached(subject):
        batching = Batching(subject, groups, room, finish, choose)
        with attending(base.model, batching.runner.cache.attend):
            while batching.at_work:
                batching.step()
