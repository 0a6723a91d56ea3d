"""SplitMix64 (Steele, Lea and Flood 2014) in torch: numbers that depend on their key alone.

As a counter-based generator: a key is mixed into a 64-bit state, and the n-th number of its stream
is `mixed(state + n * GAMMA)`. Neither the order of drawing nor what else is drawn matters. Kernels
have the same three lines in their own languages.
"""

from jaxtyping import Int
from torch import Tensor

# Its constants as signed 64-bit integers: torch's int64 product wraps modulo 2^64.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
"""The increment: odd, and 2^64 over the golden ratio."""
_MIX_A = 0xBF58476D1CE4E5B9 - 2**64
_MIX_B = 0x94D049BB133111EB - 2**64


def mixed(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The finaliser: a bijection of 64-bit integers that scatters every bit."""
    x = (x ^ shifted(x, 30)) * _MIX_A
    x = (x ^ shifted(x, 27)) * _MIX_B
    return x ^ shifted(x, 31)


def shifted(x: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Logical shift to the right; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
