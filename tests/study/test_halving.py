"""Whatever is at fault costs itself alone; what memory does not hold is done in parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerproof.errors import ModelError
from steerproof.study.halving import in_halves


@given(count=st.integers(0, 9), bad=st.sets(st.integers(0, 8)), most=st.integers(1, 9))
def test_every_key_comes_once_and_those_at_fault_bring_their_own_error(count, bad, most):
    def together(some):
        if len(some) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for key, value in some.items():
            if key in bad:
                raise ModelError(f"{key} is bad")
            yield key, value * 10

    came = list(in_halves({key: key for key in range(count)}, together))
    assert sorted(key for key, _ in came) == list(range(count))
    for key, result in came:
        assert str(result) == (f"{key} is bad" if key in bad else str(key * 10))


def test_one_that_memory_does_not_hold_is_an_error_of_the_machine():
    def together(some):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield from some.items()

    with pytest.raises(torch.OutOfMemoryError):
        list(in_halves({"a": 1, "b": 2}, together))
