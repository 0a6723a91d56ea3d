"""Computes what the scheduler decides: the KV cache, the tensors of a batch, the forward pass.

A prefill computes all tokens of prompts but the last, which is fed in the first decode: so every
token is drawn in one place. A batch that is decoded is a matter of tensors that are written anew
when other sequences take part, and otherwise changed in place. On a GPU batches are padded to a few
sizes, each of which is captured as a graph once (`graphs.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.blocks import NULL_BLOCK
from steerproof.engine.cache.handed import handed
from steerproof.engine.cache.paged import PagedCache, prompt_places
from steerproof.engine.graphs import CapturedSteps
from steerproof.engine.prompts import packed, packed_length
from steerproof.engine.steps import Copies, Decode, Prefill
from steerproof.engine.subject import Subject
from steerproof.model.push import Where
from steerproof.model.split import devices_of
from steerproof.model.transfer import sent, unplanned_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTensors:
    """A batch that is decoded, on the device; what a step changes is written in place."""

    batch: Decode
    tokens: Int[Tensor, " sequences"]
    """Fed in the next step."""
    positions: Int[Tensor, " sequences"]
    owners: Int[Tensor, " rows"]
    """The place of each row's sequence."""
    firsts: Int[Tensor, " sequences"]
    """The place of each sequence's first row."""
    steps: Int[Tensor, " rows"]
    """Tokens that each row has drawn."""
    seeds: Int[Tensor, " rows"]


Choose = Callable[[Float[Tensor, "sequences vocab"], DecodeTensors], Int[Tensor, " rows"]]
"""A token for every row, from the logits of its sequence."""


Pending = Callable[[], np.ndarray]
"""Waits for what was launched, and returns it."""


class Runner:
    """The KV cache of running sequences, and the model over it."""

    def __init__(
        self, subject: Subject, choose: Choose, *, rows: int, blocks: int, longest: int
    ) -> None:
        """An empty cache.

        Args:
            subject: Its adapters and its steering must be attached.
            choose: Draws the tokens.
            rows: Most rows in flight.
            blocks: Blocks of keys and values that sequences may have.
            longest: Positions of the longest row, prompt and answer.
        """
        self._subject, self._choose = subject, choose
        self._device = subject.base.device
        self.steps = CapturedSteps(devices_of(subject.base.model))
        most = self.steps.padded(rows)
        self.cache = PagedCache(blocks + 1, most, longest, self._device)
        self._tokens = torch.zeros(most, dtype=torch.int64, device=self._device)
        self._logits = torch.zeros(0, 0, dtype=subject.base.dtype, device=self._device)
        self._loaded: DecodeTensors | None = None
        subject.reserve(most)

    @torch.inference_mode()
    def launch(self, batch: Prefill | Decode) -> Pending:
        """Begin to compute a batch; a GPU goes on with it while the host does other things.

        Returns:
            Waits for `[rows]`, the token drawn for each row; none for a prefill.
        """
        self._copy(batch.copies)
        if isinstance(batch, Decode):
            return _read_later(self._decode(batch))
        self._prefill(batch)
        return lambda: np.zeros(0, dtype=np.int64)

    def _copy(self, copies: Copies) -> None:
        """Copy blocks; before anything else, for a source may have been given to another since."""
        if copies:
            both = torch.tensor(copies, device=self._device)
            self.cache.copy_blocks(both[:, 0], both[:, 1])

    def _prefill(self, batch: Prefill) -> None:
        """Write the keys and values of prompts into the sequences' blocks."""
        base, on = self._subject.base, self._device
        longest = packed_length(on)
        rows = [sequence.rows[0] for sequence in batch.sequences]
        keys = [(row.adapter, row.push) for row in rows]
        prompts = packed(rows, keys, [row.prompt_ids[:-1] for row in rows], longest, base.pad_id)
        places = prompt_places([sequence.position for sequence in batch.sequences], batch.tables)
        source = torch.tensor([token for path in prompts.paths for token in path]).long()
        mask = None if prompts.mask is None else torch.from_numpy(prompts.mask).to(on)
        real = torch.from_numpy(prompts.real)
        where: list[Where] = ["prompt" for _ in prompts.rows]
        self._subject.route(prompts.rows, real, where)
        writing = self.cache.prefilling(sent(source, on), sent(places, on), mask)
        with writing, unplanned_attention(on):
            base.model(
                input_ids=sent(torch.from_numpy(prompts.ids), on),
                position_ids=sent(torch.from_numpy(prompts.positions), on),
                **handed(base.model, self.cache),
                use_cache=True,
                logits_to_keep=1,
            )
        # Rows were routed for this pass, so the batch before it must be loaded again.
        self._loaded = None

    def _decode(self, batch: Decode) -> Int[Tensor, " rows"]:
        """Feed every sequence its last token; returns what its rows draw."""
        loaded = self._loaded
        if loaded is None or loaded.batch is not batch:
            loaded = self._loaded = self._load(batch)
        elif batch.grown:
            self._grow(batch.grown)
        count = len(batch.sequences)
        size = self.steps.padded(count)
        self.steps(size, lambda: self._forward(size))
        drawn = self._choose(self._logits[:count], loaded)
        # What was drawn from logits that are not finite is -1, and must still be a token.
        loaded.tokens.copy_(drawn.index_select(0, loaded.firsts).clamp_(min=0))
        loaded.positions.add_(1)
        loaded.steps.add_(1)
        return drawn

    def _grow(self, grown: list[tuple[int, int, int]]) -> None:
        """Write new blocks into the tables that are loaded."""
        places = sent(torch.tensor(grown), self._device)
        blocks = places[:, 2].to(torch.int32)
        self.cache.table.index_put_((places[:, 0], places[:, 1]), blocks)

    def _forward(self, size: int) -> None:
        self.cache.point(size)
        output: Any = self._subject.base.model(
            input_ids=self._tokens[:size, None],
            position_ids=self.cache.fed(size)[:, None],
            **handed(self._subject.base.model, self.cache),
            use_cache=True,
        )
        logits = output.logits[:, -1]
        if not self.steps.captures:
            self._logits = logits
            return
        if not self._logits.numel():
            self._logits = logits.new_empty(len(self._tokens), logits.shape[1])
        self._logits[:size].copy_(logits)

    def _load(self, batch: Decode) -> DecodeTensors:
        """Write the tensors of a batch, and route its rows."""
        sequences, cache, count = batch.sequences, self.cache, len(batch.sequences)
        size = self.steps.padded(count)
        cache.table[:count].copy_(sent(torch.from_numpy(batch.tables), self._device))
        cache.table[count:size] = NULL_BLOCK
        cache.positions[:count].copy_(sent(torch.from_numpy(batch.positions), self._device))
        cache.positions[count:size] = 0
        self._tokens[:count].copy_(self._fed(batch))
        # Padding rides with the last adapter, unpushed; it reads and writes the null block alone.
        padding = [sequences[-1].rows[0]] * (size - count)
        unread = batch.after is not None
        where: list[Where] = ["generated" if unread else one.where for one in sequences]
        self._subject.route([sequence.rows[0] for sequence in sequences], None, where, padding)
        drawn = np.array([len(sequence.tokens) + unread for sequence in sequences])
        seeds = np.array([row.seed for row in batch.rows], dtype=np.int64)
        arrays = (batch.owners, batch.firsts, drawn[batch.owners], seeds)
        owners, firsts, steps, seeds = (sent(torch.from_numpy(x), self._device) for x in arrays)
        return DecodeTensors(
            batch=batch,
            tokens=self._tokens[:count],
            positions=cache.positions[:count],
            owners=owners,
            firsts=firsts,
            steps=steps,
            seeds=seeds,
        )

    def _fed(self, batch: Decode) -> Int[Tensor, " sequences"]:
        """The tokens that sequences are fed next: the host may not have read them yet."""
        if batch.after is None:
            return sent(torch.tensor([sequence.last for sequence in batch.sequences]), self._device)
        return self._tokens.index_select(0, sent(torch.from_numpy(batch.after), self._device))


def _read_later(drawn: Tensor) -> Pending:
    """A copy to the host, begun now: read later, it does not wait for what is launched between."""
    if drawn.device.type != "cuda":
        return drawn.numpy
    here = torch.empty(drawn.shape, dtype=drawn.dtype, pin_memory=True)
    here.copy_(drawn, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> np.ndarray:
        copied.synchronize()
        return here.numpy()

    return wait
