"""Drawing one token per row, so that a row's text does not depend on its neighbours.

The noise of a token is a function of (row seed, step, token id) and of nothing else: the same row
draws the same tokens alone, in its cell, or in a pool of a thousand.

**Noise.** SplitMix64 as a counter-based generator (`noise.py`): the row seed and
the step are mixed into a 64-bit state, and the token id counts along that state's stream, whose
period is 2^64. The upper 52 bits give `u` in `[2^-53, 1 - 2^-53]`, so neither logarithm of the
Gumbel noise `-log(-log(u))` meets a zero.

**Draw.** `argmax(log p + noise)` is a draw from `p` (Gumbel-max; Maddison et al. 2014, arXiv
1411.0030). Unlike the inversion of a
cumulative sum, it rarely changes when rounding moves the logits a little.

**Nucleus.** A token belongs to the top-p nucleus when the tokens *strictly* more probable than it
hold less than `top_p` of the mass. Without ties this is the set that sorting gives (the smallest
set of most probable tokens that holds at least `top_p`). Tokens tied at the boundary are all kept,
where a sort would keep whichever of them it happened to put first.

No sort is needed: the nucleus is an upper set, so if the winner of the draw over all tokens lies
inside, it is also the winner of the draw over the nucleus; if it does not, neither does any token
as improbable as it, and the draw is repeated among the rest. A token with less than
`(1 - top_p) / vocabulary` cannot be inside, which is why few tokens ever need noise.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.noise import GAMMA, mixed
from steerproof.spec.seeds import derived_seed


def row_seed(experiment_seed: int, cell: str, question: int, sample: int) -> int:
    """Seed of one completion, in `[0, 2^63)`: its identity, hashed.

    Args:
        experiment_seed: Root of every draw of the experiment.
        cell: The cell's name.
        question: Index of the question.
        sample: Index of the sample of that question.
    """
    return derived_seed("row", experiment_seed, cell, question, sample)


def sample(
    logits: Float[Tensor, "branches vocab"],
    seeds: Int[Tensor, " rows"],
    steps: Int[Tensor, " rows"],
    temperature: float,
    top_p: float,
    owners: Int[Tensor, " rows"] | None = None,
) -> Int[Tensor, " rows"]:
    """Draw one token per row from the nucleus of the softmax at a temperature.

    Args:
        logits: Next-token logits; computed on in float32 whatever their type.
        seeds: Seed of each row (`row_seed`).
        steps: Index of the token being drawn, 0 for the first of the completion.
        temperature: Divisor of the logits, above 0.
        top_p: Mass of the nucleus, in (0, 1]; 1 keeps every token.
        owners: Whose logits each row draws from, ascending; None when every row has its own.

    Returns:
        Token ids; -1 where a row's logits are not finite.
    """
    states = _states(seeds, steps)
    if owners is None:
        owners = torch.arange(len(seeds), device=seeds.device)
    drawing = (temperature, top_p, _floor(top_p, logits.shape[1]))
    if logits.is_cuda:
        from steerproof.engine.cache import gpu_kernels

        drawn = gpu_kernels.draw(logits, states, owners, *drawing)
    else:
        from steerproof.engine.cache import cpu_kernels

        drawn = cpu_kernels.draw(logits.cpu(), states.cpu(), owners.cpu(), *drawing)
        drawn = drawn.to(seeds.device)
    return drawn


def _states(seeds: Tensor, steps: Tensor) -> Tensor:
    """Where each row's stream of noise begins."""
    return mixed(mixed(seeds) + steps * GAMMA)


def _floor(top_p: float, vocab: int) -> float:
    """A probability below which no token is in the nucleus.

    Rounded down: a bound that is too low only costs a little noise.
    """
    return (1.0 - top_p) / vocab * 0.999
