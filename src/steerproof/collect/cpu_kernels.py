"""CPU kernels, in Numba: attention over pages, and the draw of a token.

Rows are short and all different, so a library's batched products of a query with its own few keys
spend most of their time on starting. These functions compute what a few lines of torch define
(`pages.attention_over_pages`, `sampling.drawn_by_definition`), in one thread; other threads
run meanwhile. They are compiled when they are first used, which takes some three seconds.
"""

# ruff: noqa: ANN001, ANN202

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_Function = Callable[..., Any]
# Sums may be reordered, so that they are vectorised; NaN and infinities mean what they mean.
_REORDERED = {"reassoc", "contract", "nsz"}


def _fast(function: _Function) -> _Function:
    return _exact(function, fastmath=_REORDERED)


def _exact(function: _Function, **options: Any) -> _Function:
    # Unwrapped, since a type checker's wrapper cannot be compiled.
    compiled = numba.njit(nogil=True, error_model="numpy", **options)
    return compiled(inspect.unwrap(function))


def attention(
    query: Float[Tensor, "rows heads width"],
    keys: Float[Tensor, "all_pages kv_heads page width"],
    values: Float[Tensor, "all_pages kv_heads page width"],
    table: Int[Tensor, "rows pages"],
    lengths: Int[Tensor, " rows"],
    scale: float,
) -> Float[Tensor, "rows heads width"]:
    """What `pages.attention_over_pages` defines, for the same arguments."""
    page = keys.shape[2]
    columns = -(-int(lengths.max()) // page) * page
    scores = query.new_empty(*query.shape[:2], columns)
    own = table.numpy(), lengths.numpy()
    _products(scores.numpy(), (query * scale).numpy(), keys.numpy(), *own)
    out = query.new_empty(query.shape)
    _mixtures(out.numpy(), scores.softmax(-1).numpy(), values.numpy(), *own)
    return out


@_fast
def _products(scores, query, keys, table, lengths):
    rows, heads, width = query.shape
    page, group = keys.shape[2], heads // keys.shape[1]
    zero = np.zeros(1, query.dtype)[0]
    for row in range(rows):
        length = lengths[row]
        for head in range(heads):
            for first in range(0, length, page):
                place = table[row, first // page]
                for t in range(min(page, length - first)):
                    total = zero
                    for d in range(width):
                        total += query[row, head, d] * keys[place, head // group, t, d]
                    scores[row, head, first + t] = total
            for t in range(length, scores.shape[2]):
                scores[row, head, t] = -np.inf


@_fast
def _mixtures(out, weights, values, table, lengths):
    rows, heads, width = out.shape
    page, group = values.shape[2], heads // values.shape[1]
    for row in range(rows):
        length = lengths[row]
        for head in range(heads):
            for d in range(width):
                out[row, head, d] = 0
            for first in range(0, length, page):
                place, kv_head = table[row, first // page], head // group
                tokens = min(page, length - first)
                by_fours = tokens // 4 * 4
                for t in range(0, by_fours, 4):
                    w0, w1 = weights[row, head, first + t], weights[row, head, first + t + 1]
                    w2, w3 = weights[row, head, first + t + 2], weights[row, head, first + t + 3]
                    for d in range(width):
                        out[row, head, d] += (
                            w0 * values[place, kv_head, t, d]
                            + w1 * values[place, kv_head, t + 1, d]
                            + w2 * values[place, kv_head, t + 2, d]
                            + w3 * values[place, kv_head, t + 3, d]
                        )
                for t in range(by_fours, tokens):
                    for d in range(width):
                        weight = weights[row, head, first + t]
                        out[row, head, d] += weight * values[place, kv_head, t, d]


def draw(
    scaled: Float[Tensor, "rows vocab"],
    probabilities: Float[Tensor, "rows vocab"],
    states: Int[Tensor, " rows"],
    top_p: float,
    floor: float,
) -> Int[Tensor, " rows"]:
    """One token per row from the nucleus, by the definition in `sampling`.

    Args:
        scaled: Logits over the temperature, float32.
        probabilities: Their softmax.
        states: State of each row's noise, to which a token's id is added.
        top_p: Mass of the nucleus.
        floor: A probability below which no token can be in the nucleus.

    Returns:
        Token ids; -1 where a row's logits are not finite.
    """
    drawn = torch.empty_like(states)
    arrays = (drawn, scaled, probabilities, states)
    _draw(*(tensor.numpy() for tensor in arrays), np.float32(floor), top_p)
    return drawn


@_exact
def _draw(drawn, scaled, probabilities, states, floor, top_p):
    for row in range(len(states)):
        low, drawn[row] = floor, -1
        while True:
            winner = _winner(scaled[row], probabilities[row], np.uint64(states[row]), low)
            if winner < 0:
                break
            # Outside the nucleus: neither is any token as improbable in it.
            low = probabilities[row, winner]
            if top_p >= 1.0 or _above(probabilities[row], low) < top_p:
                drawn[row] = winner
                break


@_exact
def _winner(scaled, probabilities, state, low):
    winner, best = -1, -np.inf
    for token in range(len(scaled)):
        if probabilities[token] > low:
            score = scaled[token] + _gumbel(state, np.uint64(token + 1))
            if score > best:
                winner, best = token, score
    return winner


@_fast
def _above(probabilities, low):
    total = np.float32(0)
    for p in probabilities:
        total += p if p > low else np.float32(0)
    return total


@_exact
def _gumbel(state, count):
    """Noise of `sampling.gumbel`, bit for bit up to the logarithms."""
    x = state + count * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    uniform = (np.float64(x >> np.uint64(12)) + 0.5) * 2.0**-52
    return -np.log(-np.log(uniform))
