"""CPU kernels, in Numba: attention over blocks, and the draw of a token.

Rows are short and all different, so a library's batched products of a query with its own few keys
spend most of their time on starting; and each operation that is saved is a moment less in which one
thread's Python keeps the others waiting. These functions compute what a few lines of torch define
(`paged.attention_over_blocks`, and the draw as `sampling` describes it).
"""

# ruff: noqa: ANN001, ANN202, PLR0913

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.norm_kernels import exact, fast

_LN_2, _LOG2_E = np.float32(math.log(2)), np.float32(1 / math.log(2))
_TAYLOR = tuple(np.float32(1 / math.factorial(n)) for n in range(7))


def decode_attention(
    query: Float[Tensor, "rows heads width"],
    new_keys: Float[Tensor, "rows kv_heads width"],
    new_values: Float[Tensor, "rows kv_heads width"],
    keys: Float[Tensor, "all_blocks kv_heads block width"],
    values: Float[Tensor, "all_blocks kv_heads block width"],
    table: Int[Tensor, "rows blocks"],
    lengths: Int[Tensor, " rows"],
    scale: float,
) -> Float[Tensor, "rows heads width"]:
    """Write each row's newest key and value to its blocks; then `paged.attention_over_blocks`.

    All in float32. The two are one, since the block that is written to is also read.
    """
    out = query.new_empty(query.shape)
    scores = query.new_empty(table.shape[1] * keys.shape[2])
    new = (tensor.contiguous() for tensor in (query, new_keys, new_values))
    arrays = (out, scores, *new, keys, values, table, lengths)
    _decode_attention(*(tensor.numpy() for tensor in arrays), np.float32(scale))
    return out


@fast
def _decode_attention(
    out, scores, query, new_keys, new_values, keys, values, table, lengths, scale
):  # fmt: skip
    """Row by row and head by head; `scores` is one row's, in memory that stays in the cache."""
    rows, heads, width = query.shape
    kv_heads, block = keys.shape[1], keys.shape[2]
    for row in range(rows):
        length = lengths[row]
        place, t = table[row, (length - 1) // block], (length - 1) % block
        for kv_head in range(kv_heads):
            for d in range(width):
                keys[place, kv_head, t, d] = new_keys[row, kv_head, d]
                values[place, kv_head, t, d] = new_values[row, kv_head, d]
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            _products(scores, query, keys, table, length, (row, head, kv_head), scale)
            total = _exponentials(scores, length)
            _mixture(out, scores, values, table, length, (row, head, kv_head))
            for d in range(width):
                out[row, head, d] /= total


@fast
def _products(scores, query, keys, table, length, at, scale):
    (row, head, kv_head), (block, width) = at, keys.shape[2:]
    for first in range(0, length, block):
        place = table[row, first // block]
        for t in range(min(block, length - first)):
            total = np.float32(0)
            for d in range(width):
                total += query[row, head, d] * keys[place, kv_head, t, d]
            scores[first + t] = total * scale


@fast
def _exponentials(scores, length):
    """Of the scores less the largest, in their place; returns the sum."""
    top, total = scores[0], np.float32(0)
    for t in range(1, length):
        top = max(top, scores[t])
    for t in range(length):
        scores[t] = _exp(scores[t] - top)
        total += scores[t]
    return total


@fast
def _exp(x):
    """e^x for x up to 0: 2^n e^y with y within half of ln(2). Written out, it is vectorised.

    Down to -30 it is right to 3e-7 of itself; what is smaller hardly counts in a sum of weights.
    """
    x, c = max(x, np.float32(-87)), _TAYLOR
    n = np.floor(x * _LOG2_E + np.float32(0.5))
    y = x - n * _LN_2
    series = c[0] + y * (c[1] + y * (c[2] + y * (c[3] + y * (c[4] + y * (c[5] + y * c[6])))))
    power = (np.int32(n) + np.int32(127)) << np.int32(23)
    return series * np.int32(power).view(np.float32)


@fast
def _mixture(out, weights, values, table, length, at):
    (row, head, kv_head), (block, width) = at, values.shape[2:]
    for d in range(width):
        out[row, head, d] = 0
    for first in range(0, length, block):
        place, tokens = table[row, first // block], min(block, length - first)
        by_fours = tokens // 4 * 4
        for t in range(0, by_fours, 4):
            w0, w1 = weights[first + t], weights[first + t + 1]
            w2, w3 = weights[first + t + 2], weights[first + t + 3]
            for d in range(width):
                out[row, head, d] += (
                    w0 * values[place, kv_head, t, d]
                    + w1 * values[place, kv_head, t + 1, d]
                    + w2 * values[place, kv_head, t + 2, d]
                    + w3 * values[place, kv_head, t + 3, d]
                )
        for t in range(by_fours, tokens):
            for d in range(width):
                out[row, head, d] += weights[first + t] * values[place, kv_head, t, d]


def draw(
    logits: Float[Tensor, "branches vocab"],
    states: Int[Tensor, " rows"],
    owners: Int[Tensor, " rows"],
    temperature: float,
    top_p: float,
    floor: float,
) -> Int[Tensor, " rows"]:
    """One token per row from the nucleus, by the definition in `sampling`.

    Args:
        logits: Computed on in float32.
        states: State of each row's noise, to which a token's id is added.
        owners: Whose logits each row draws from, ascending.
        temperature: Divisor of the logits.
        top_p: Mass of the nucleus.
        floor: A probability below which no token can be in the nucleus.

    Returns:
        Token ids; -1 where a row's logits are not finite.
    """
    drawn = torch.empty_like(states)
    scaled, probabilities = torch.empty(2, logits.shape[1])
    arrays = (drawn, scaled, probabilities, logits.float().contiguous(), states, owners)
    numbers = (np.float32(temperature), top_p, np.float32(floor))
    _draw(*(tensor.numpy() for tensor in arrays), *numbers)
    return drawn


@exact
def _draw(drawn, scaled, probabilities, logits, states, owners, temperature, top_p, floor):
    before, finite = -1, False
    for row in range(len(states)):
        if owners[row] != before:
            before = owners[row]
            finite = _softmax(scaled, probabilities, logits[before], temperature)
        low, drawn[row] = floor, -1
        while finite:
            winner = _winner(scaled, probabilities, np.uint64(states[row]), low)
            if winner < 0:
                break
            # Outside the nucleus: neither is any token as improbable in it.
            low = probabilities[winner]
            if top_p >= 1.0 or _above(probabilities, low) < top_p:
                drawn[row] = winner
                break


@fast
def _softmax(scaled, probabilities, logits, temperature):
    """Fill in the logits over the temperature and their softmax; whether that is defined."""
    top, undefined = np.float32(-np.inf), 0
    for token in range(len(logits)):
        scaled[token] = logits[token] / temperature
        top = max(top, scaled[token])
        undefined += not scaled[token] < np.inf
    if undefined or top == -np.inf:
        return False
    total = np.float32(0)
    for token in range(len(logits)):
        probabilities[token] = _exp(scaled[token] - top)
        total += probabilities[token]
    for token in range(len(logits)):
        probabilities[token] /= total
    return True


@exact
def _winner(scaled, probabilities, state, low):
    winner, best = -1, -np.inf
    for token in range(len(scaled)):
        if probabilities[token] > low:
            score = scaled[token] + _gumbel(state, np.uint64(token + 1))
            if score > best:
                winner, best = token, score
    return winner


@fast
def _above(probabilities, low):
    total = np.float32(0)
    for p in probabilities:
        total += p if p > low else np.float32(0)
    return total


@exact
def _gumbel(state, count):
    """Noise of `sampling.gumbel`, bit for bit up to the logarithms."""
    x = state + count * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    uniform = (np.float64(x >> np.uint64(12)) + 0.5) * 2.0**-52
    return -np.log(-np.log(uniform))
