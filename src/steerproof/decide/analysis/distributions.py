"""Student's t, Fisher's F and the normal distribution: quantiles and tails, right to the last bit.

All of t and F is the regularised incomplete beta function, `I_x(a, b)`. It is summed with 50
digits and rounded once, so that a bound is the same number on every machine. A probability counts
as what it says: 0.975 is that decimal, not the double beside it.
"""

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from functools import cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

Batch = Float[np.ndarray, "*batch"]

CONFIDENCE = 0.95
"""Level of the bounds and intervals for which no other is registered."""

_DIGITS = 50
_CONTEXT = Context(prec=_DIGITS)
_PI = Decimal("3.1415926535897932384626433832795028841971693993751058209749446")
_ONE = Decimal(1)
_NO_MORE = _ONE.scaleb(-_DIGITS)
_CLOSE = _ONE.scaleb(-32)
"""Newton's steps end when they change a quantile by less than this share of it."""
_CANCELLED = _ONE.scaleb(-20)
"""One less a number near one: below this it is not right to the last bit any more."""


@cache
def normal_quantile(share: float) -> float:
    """The value below which a standard normal number lies with this probability."""
    with localcontext(_CONTEXT):
        near = Decimal(NormalDist().inv_cdf(share))
        density = (-near * near / 2).exp() / (2 * _PI).sqrt()
        # Newton: 16 digits become 32. The series is Marsaglia's (2004).
        term = total = near
        count = 1
        while abs(term) > abs(total) * _NO_MORE:
            count += 2
            term *= near * near / count
            total += term
        below = Decimal("0.5") + density * total
        return float(near - (below - _said(share)) / density)


@cache
def t_quantile(share: float, freedom: int) -> float:
    """The value below which Student's t lies with this probability.

    `P(|T| > t) = I_x(v / 2, 1 / 2)` at `x = v / (v + t^2)` (Abramowitz and Stegun 26.5.27).

    Args:
        share: The probability, between 0 and 1.
        freedom: Degrees of freedom, v.

    Returns:
        NaN without any.
    """
    if share == 0.5 or freedom < 1:
        return 0.0 if freedom >= 1 else float("nan")
    with localcontext(_CONTEXT):
        tail = 2 * min(_said(share), 1 - _said(share))
        x = _beta_quantile(tail, freedom, 1)
        size = (freedom * (1 - x) / x).sqrt()
        return float(size if share > 0.5 else -size)


@cache
def f_quantile(share: float, above: int, below: int) -> float:
    """The value below which Fisher's F lies with this probability.

    `P(F <= f) = I_x(m / 2, n / 2)` at `x = m f / (m f + n)` (Abramowitz and Stegun 26.6.2).

    Args:
        share: The probability, between 0 and 1.
        above: Degrees of freedom of the numerator, m.
        below: Those of the denominator, n.

    Returns:
        NaN without any.
    """
    if min(above, below) < 1:
        return float("nan")
    with localcontext(_CONTEXT):
        x = _beta_quantile(_said(share), above, below)
        return float(below * x / (above * (1 - x)))


def t_tail(values: Batch, freedom: int) -> Batch:
    """Probability that Student's t exceeds each of these; NaN where one is."""
    flat = np.asarray(values, dtype=float)
    tails = [_t_tail(value, freedom) for value in flat.ravel().tolist()]
    return np.array(tails).reshape(flat.shape)


def _t_tail(value: float, freedom: int) -> float:
    if np.isnan(value) or freedom < 1:
        return float("nan")
    if np.isinf(value):
        return float(value < 0)
    with localcontext(_CONTEXT):
        half = _beta(freedom / (freedom + Decimal(value) ** 2), freedom, 1) / 2
        return float(half if value >= 0 else 1 - half)


def _said(share: float) -> Decimal:
    """The decimal that a probability is written as."""
    return Decimal(repr(float(share)))


def _beta(x: Decimal, above: int, below: int) -> Decimal:
    """`I_x(above / 2, below / 2)`, from the side on which the series is short."""
    if x <= 1 - x:
        return _series(x, above, below)
    found = 1 - _series(1 - x, below, above)
    return found if found > _CANCELLED else _series(x, above, below)


def _series(x: Decimal, above: int, below: int) -> Decimal:
    """`x^a (1 - x)^b / (a B(a, b))` times the sum of `(a + b)_k / (a + 1)_k x^k` (DLMF 8.17.8).

    No term is negative, so nothing cancels.
    """
    if not x:
        return x
    term = total = _ONE
    up, down = above + below, above + 2
    while term > total * _NO_MORE or up * x >= down:  # until the terms are small and fall
        term *= x * up / down
        total += term
        up, down = up + 2, down + 2
    return _power(x, above) * _power(1 - x, below) * total * 2 / (above * _whole(above, below))


def _power(x: Decimal, twice: int) -> Decimal:
    """`x ** (twice / 2)`."""
    return x ** (twice // 2) * (x.sqrt() if twice % 2 else 1)


@cache
def _whole(above: int, below: int) -> Decimal:
    """`B(above / 2, below / 2)`."""
    with localcontext(_CONTEXT):
        return _gamma(above) * _gamma(below) / _gamma(above + below)


def _gamma(twice: int) -> Decimal:
    """The gamma function of `twice / 2`."""
    found = _PI.sqrt() if twice % 2 else _ONE
    for step in range(2 - twice % 2, twice, 2):
        found *= Decimal(step) / 2
    return found


def _beta_quantile(share: Decimal, above: int, below: int) -> Decimal:
    """The x at which `I_x(above / 2, below / 2)` is this share."""
    whole = _whole(above, below)

    def density(x: Decimal) -> Decimal:
        return _power(x, above) * _power(1 - x, below) / (x * (1 - x) * whole)

    start = Decimal(above) / (above + below)
    return _root(lambda x: _beta(x, above, below) - share, density, start)


def _root(
    excess: Callable[[Decimal], Decimal], slope: Callable[[Decimal], Decimal], x: Decimal
) -> Decimal:
    """Where a function that rises on (0, 1) is 0: Newton's steps from x, kept within brackets."""
    low, high = Decimal(0), _ONE
    while True:
        over, steep = excess(x), slope(x)
        low, high = (low, x) if over > 0 else (x, high)
        new = x - over / steep if steep else low
        if not low < new < high:
            new = (low + high) / 2
        if abs(new - x) <= x * _CLOSE:
            return new
        x = new
