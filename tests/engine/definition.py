"""What the engine is held to: plain torch, a row at a time, without cache or neighbours."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerproof.engine import packed_attention, sampling, train
from steerproof.engine.alone import log_probs_alone
from steerproof.engine.lora import tiles
from steerproof.engine.noise import GAMMA, mixed, shifted
from steerproof.engine.rows import Row
from steerproof.engine.slots import Slot, SlotText
from steerproof.engine.subject import attached, subject_of
from steerproof.errors import ModelError
from steerproof.model.base import Base


def gumbel(
    seeds: Int[Tensor, " rows"],
    steps: Int[Tensor, " rows"],
    row: Int[Tensor, " draws"],
    token: Int[Tensor, " draws"],
) -> Float[Tensor, " draws"]:
    """Standard Gumbel noise keyed by (row seed, step, token id), float64.

    Args:
        seeds: Seed of each row.
        steps: Index of the token being drawn in each row, 0 for the first of the completion.
        row: For each draw, its place in `seeds` and `steps`.
        token: For each draw, its token id.
    """
    state = sampling._states(seeds, steps)
    bits = shifted(mixed(state[row] + (token + 1) * GAMMA), 12)
    uniform = bits.to(torch.float64).add_(0.5).mul_(2.0**-52)
    return uniform.log_().neg_().log_().neg_()


def in_nucleus(
    probabilities: Float[Tensor, "rows vocab"],
    candidate: Float[Tensor, " rows"],
    top_p: float,
) -> Bool[Tensor, " rows"]:
    """Whether a token of probability `candidate` lies in its row's nucleus.

    Args:
        probabilities: Float32 softmax of the logits at temperature.
        candidate: Probability of one token of each row, taken from `probabilities`.
        top_p: Mass of the nucleus, in (0, 1].
    """
    if top_p >= 1.0:
        return torch.ones_like(candidate, dtype=torch.bool)
    # Ones and zeros of the probabilities' own type: a product with booleans takes five times as
    # long on a CPU (1.65 ms against 0.29 for 1,024 rows of 1,024 tokens).
    above = torch.gt(probabilities, candidate[:, None], out=torch.empty_like(probabilities))
    return above.mul_(probabilities).sum(dim=1) < top_p


def drawn_by_definition(
    scaled: Float[Tensor, "rows vocab"],
    seeds: Int[Tensor, " rows"],
    steps: Int[Tensor, " rows"],
    top_p: float,
) -> Int[Tensor, " rows"]:
    """Gumbel-max over the nucleus of `softmax(scaled)`: what the kernels are held to.

    Args:
        scaled: Float32 logits over the temperature.
        seeds: Seed of each row.
        steps: Index of the token being drawn.
        top_p: Mass of the nucleus.

    Raises:
        ModelError: The logits of a row are not finite.
    """
    rows, vocab = scaled.shape
    probabilities = scaled.softmax(dim=1)
    flat = (probabilities > sampling._floor(top_p, vocab)).view(-1).nonzero().squeeze(1)
    row, token = flat.div(vocab, rounding_mode="floor"), flat % vocab
    mass = probabilities.view(-1)[flat]
    score = scaled.reshape(-1)[flat] + gumbel(seeds, steps, row, token)
    drawn = torch.full_like(seeds, vocab)
    pending = torch.arange(rows, device=scaled.device)
    while True:
        best = score.new_full((rows,), -torch.inf).scatter_reduce_(0, row, score, "amax")
        _check_finite(best[pending])
        won = score == best[row]
        # Equal scores are as good as impossible; the lowest id wins, on every device.
        drawn.scatter_reduce_(0, row[won], token[won], "amin")
        left = probabilities if len(pending) == rows else probabilities[pending]
        winner = left.gather(1, drawn[pending, None]).squeeze(1)
        outside = ~in_nucleus(left, winner, top_p)
        if not bool(outside.any()):
            return drawn
        pending = pending[outside]
        drawn[pending] = vocab
        bound = mass.new_full((rows,), torch.inf).index_put_((pending,), winner[outside])
        keep = mass > bound[row]
        row, token, mass, score = row[keep], token[keep], mass[keep], score[keep]


def _check_finite(best: Tensor) -> None:
    if not bool(best.isfinite().all()):
        bad = int((~best.isfinite()).sum())
        raise ModelError(f"the logits of {bad} of {len(best)} rows are not finite")


def score_alone(base: Base, row: Row, text: Sequence[int]) -> Tensor:
    """The reference: one plain forward pass of prompt and text, without packing or neighbours.

    Returns:
        float32 `[tokens]`.
    """
    return log_probs_alone(subject_of(base, [row], audit_every=1), [row], text)[0]


def weigh_alone(base: Base, text: SlotText) -> Slot:
    """The reference: one plain forward pass of one text, without cache or neighbours."""
    subject = subject_of(base, [text.row], audit_every=1)
    ids = torch.tensor([[*text.row.prompt_ids, *text.answer, *text.marker]], device=base.device)
    push = text.row.push
    mask = None if push is None else push.mask(len(text.row.prompt_ids), ids.shape[1])[None]
    with attached(subject), torch.inference_mode():
        subject.route([text.row], mask, None)
        logits = base.model(input_ids=ids, use_cache=False).logits[0].float()
    logits = logits[-len(text.marker) - 1 : -1]
    scores = logits.log_softmax(dim=1)[range(len(text.marker)), text.marker]
    return Slot(
        z_marker=float(logits[0, text.marker[0]]),
        z_end=float(logits[0, base.chat.end_of_turn]),
        log_z=float(logits[0].logsumexp(dim=0)),
        log_prob_marker=float(scores.double().sum()),
    )


class TilesByDefinition:
    """What the kernels of packed rows compute, in torch's own products, adapter by adapter."""

    def __init__(self, how: tiles._Pass) -> None:
        self._how = how
        slots = how.tiles.tolist()
        starts = [i for i, slot in enumerate(slots) if i == 0 or slots[i - 1] != slot]
        stops = [*starts[1:], len(slots)]
        self._runs = [
            (slots[start] - 1, slice(start * tiles.TILE, stop * tiles.TILE))
            for start, stop in zip(starts, stops, strict=True)
            if slots[start]
        ]

    def _kept(self, layer: int, x: Tensor) -> Tensor:
        """`x` with zeros where a layer's dropout drops."""
        dropout, number = self._how.dropout, self._how.layers.numbers[layer]
        if dropout is None or dropout.places is None:
            return x
        hashes = -(-x.shape[1] // 4)
        first = dropout.places.long() * hashes
        counter = (first[..., None] + torch.arange(hashes)) * GAMMA
        draws = mixed(mixed(dropout.row_keys ^ number)[..., None] + counter).view(torch.int16)
        keep = draws.view(len(x), 4 * hashes)[:, : x.shape[1]] >= dropout.dropped - 2**15
        return x * keep

    def narrowed(self, x: Tensor) -> Tensor:
        """As `tiles._Kernels.narrowed`."""
        a = self._how.layers.a
        result = x.new_zeros(len(a), len(x), a[0].shape[1])
        for layer in range(len(a)):
            kept = self._kept(layer, x)
            for slot, run in self._runs:
                result[layer, run] = kept[run] @ a[layer][slot].T
        return result

    def outputs(self, x: Tensor, narrow: Tensor) -> list[Tensor]:
        """As `tiles._Kernels.outputs`."""
        layers = self._how.layers
        ys = [F.linear(x, *one) for one in zip(layers.weights, layers.biases, strict=True)]
        for y, t, b in zip(ys, narrow, layers.b, strict=True):
            for slot, run in self._runs:
                y[run].addmm_(t[run], b[slot], alpha=self._how.scaling)
        return ys

    def outputs_back(self, narrow: Tensor, dys: Sequence[Tensor]) -> Tensor:
        """As `tiles._Kernels.outputs_back`."""
        layers, result = self._how.layers, torch.zeros_like(narrow)
        for layer, dy in enumerate(dys):
            for slot, run in self._runs:
                result[layer, run] = dy[run] @ layers.b[layer][slot].T
                grown = narrow[layer, run].T @ dy[run]
                layers.grad_b[layer][slot].add_(grown, alpha=self._how.scaling)
        return result

    def inputs_back(self, dx: Tensor | None, x: Tensor, back: Tensor) -> None:
        """As `tiles._Kernels.inputs_back`."""
        layers, scaling = self._how.layers, self._how.scaling
        for layer, dt in enumerate(back):
            kept = self._kept(layer, x)
            change = torch.zeros_like(x)
            for slot, run in self._runs:
                layers.grad_a[layer][slot].add_(dt[run].T @ kept[run], alpha=scaling)
                change[run] = dt[run] @ layers.a[layer][slot]
            if dx is not None:
                dx.add_(self._kept(layer, change), alpha=scaling)


def rows_by_definition(
    query: Float[Tensor, "tokens heads width"],
    key: Tensor,
    value: Tensor,
    ends: Int[Tensor, " row1"],
    longest: int,
    scale: float,
) -> Float[Tensor, "tokens heads width"]:
    """What `packed_attention._within_rows` computes: each token sees its row up to itself."""
    at = torch.arange(len(query))
    row = torch.searchsorted(ends[1:].long(), at, right=True)
    mask = (row[:, None] == row[None, :]) & (at[:, None] >= at[None, :])
    lines = [x.transpose(0, 1)[None] for x in (query, key, value)]
    grouped = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(*lines, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return out[0].transpose(0, 1)


def pack_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on packed rows as a GPU does, with the definitions in place of its kernels."""
    monkeypatch.setattr(train, "packs", packed_attention.packable)
    monkeypatch.setattr(packed_attention, "_within_rows", rows_by_definition)
    monkeypatch.setattr(tiles, "_Kernels", TilesByDefinition)
