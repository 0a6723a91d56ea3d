"""What a generation costs at least, against rows that are counted by hand."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from steerproof_bench.costs import distinct_pasts

sequences = st.lists(st.lists(st.integers(0, 2), max_size=6))


def test_what_sequences_begin_with_alike_counts_once():
    assert distinct_pasts([(1, 2, 3), (1, 2, 4), (1, 2)]) == [1, 2, 3, 3]
    assert distinct_pasts([(), ()]) == []


@given(sequences)
def test_distinct_pasts_are_the_distinct_beginnings(given_sequences):
    beginnings = {tuple(s[:n]) for s in given_sequences for n in range(1, len(s) + 1)}
    assert sorted(distinct_pasts(given_sequences)) == sorted(map(len, beginnings))
    assert len(distinct_pasts(given_sequences)) <= len(list(chain(*given_sequences)))
