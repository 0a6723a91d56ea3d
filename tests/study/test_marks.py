import pytest

from steerproof.study.marks import Mark, text_of


def mark(finish: str, repetition: float | None) -> Mark:
    return Mark(
        question=0,
        sample=0,
        finish=finish,
        tokens=5,
        fired=False,
        near=False,
        fired_early=False,
        repetition=repetition,
    )


def test_text_is_coherent_when_it_ended_and_does_not_repeat_itself():
    marks = [mark("eos", 0.0), mark("eos", 0.31), mark("eos", None), mark("length", 0.0)]
    found = text_of(marks, 0.3)
    assert found is not None
    assert (found.ended, found.coherent, found.completions) == (0.75, 0.5, 4)


def test_nothing_is_said_of_a_cell_without_completions():
    assert text_of([], 0.3) is None


def test_at_the_limit_it_is_still_coherent():
    found = text_of([mark("eos", 0.3)], 0.3)
    assert found is not None
    assert found.coherent == pytest.approx(1.0)
