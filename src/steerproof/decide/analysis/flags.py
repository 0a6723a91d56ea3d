"""Conditions that may be undecided, over any batch of tables at once.

A flag is 1 (true), 0 (false) or NaN (cannot be decided). What is missing makes a condition
undecided only where it could change the answer.
"""

import numpy as np
from jaxtyping import Bool, Float

Flag = Float[np.ndarray, "*batch"]
"""1 true, 0 false, NaN undecided."""
_Values = np.ndarray | np.generic | float
"""Numbers or conditions, on their way into an array: numpy makes scalars of a single table's."""
Rates = Float[np.ndarray, "personas *batch"]
"""One rate per headline persona; NaN where the cell is missing."""


def all_present(*quantities: Rates) -> Bool[np.ndarray, "*batch"]:
    """Whether no persona is missing from any of the quantities."""
    return np.asarray(~np.any([np.isnan(values).any(axis=0) for values in quantities], axis=0))


def at_least(value: _Values, threshold: _Values, complete: _Values) -> Flag:
    """Flag `value >= threshold`, undecided where personas are missing or a number is undefined."""
    value, threshold = np.asarray(value), np.asarray(threshold)
    unknown = np.isnan(value) | np.isnan(threshold) | ~np.asarray(complete)
    return flag(value >= threshold, unknown=unknown)


def flag(true: _Values, *, unknown: _Values) -> Flag:
    """1 or 0, and NaN where unknown."""
    return np.asarray(np.where(unknown, np.nan, np.where(true, 1.0, 0.0)))


def negated(value: Flag) -> Flag:
    """True for false, undecided stays undecided."""
    return np.asarray(1.0 - value)


def both(left: Flag, right: Flag) -> Flag:
    """And of two flags: one false decides, whatever the other is."""
    return np.asarray(np.where((left == 0) | (right == 0), 0.0, left * right))
