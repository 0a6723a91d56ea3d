"""A few completions to look at, each cut round its marker."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from steerproof.decide.report.inputs import ReportInputs, ReportSample, short_name
from steerproof.spec.strength import NONE
from steerproof.text import reveal

_MOST = 6
"""Completions in a report."""
_AROUND = 180
"""Characters to either side of the marker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A completion cut at its markers, so that a template can highlight them."""

    completion: ReportSample
    about: str
    """Where it is from, in words."""
    question: str
    parts: tuple[tuple[str, bool], ...]
    """Text, and whether it is the marker."""


def samples(inputs: ReportInputs) -> tuple[Sample, ...]:
    """At most six completions, as unlike as there are: arms, prompts and pushes take turns."""
    left = sorted(inputs.detail.completions, key=lambda c: _distance(inputs, c))
    chosen: list[ReportSample] = []
    while left and len(chosen) < _MOST:
        sorts = Counter(map(_sort, chosen))
        personas = Counter(one.cell.persona for one in chosen)
        best = min(left, key=lambda c: (sorts[_sort(c)], personas[c.cell.persona]))
        left.remove(best)
        chosen.append(best)
    return tuple(_cut(c, inputs.experiment.marker) for c in chosen)


def _sort(completion: ReportSample) -> tuple[object, ...]:
    """What makes two completions alike, beside the persona."""
    cell = completion.cell
    return cell.arm, cell.prompt, cell.strength == NONE, completion.fired


def _distance(inputs: ReportInputs, completion: ReportSample) -> tuple[bool, bool, bool]:
    """The registered test first: tested arm, neutral prompt, primary strength."""
    asked, cell = inputs.experiment.analysis, completion.cell
    return (
        cell.arm != asked.arm,
        cell.prompt != "neutral",
        cell.strength != asked.primary_strength,
    )


def _cut(completion: ReportSample, marker: str) -> Sample:
    """Cut a completion round its first marker; invisible characters are shown by name."""
    cell = completion.cell
    push = "no push" if cell.strength == NONE else f"pushed at {cell.strength}"
    return Sample(
        completion=completion,
        about=f"arm {cell.arm}, {short_name(cell.persona)}, {cell.prompt} prompt, {push}",
        question=_shortened(reveal(completion.question), 0),
        parts=tuple(_parts(reveal(completion.text), reveal(marker))),
    )


def _parts(text: str, marker: str) -> Iterator[tuple[str, bool]]:
    marked = re.compile(f"({re.escape(marker)})", flags=re.IGNORECASE)
    first = marked.search(text)
    # Without a marker the end is shown: that is where it would stand.
    centre = first.start() if first else len(text)
    for place, piece in enumerate(marked.split(_shortened(text, centre, len(marker)))):
        if piece:
            yield piece, place % 2 == 1


def _shortened(text: str, centre: int, width: int = 0) -> str:
    """What stands round a place, with dots where it goes on."""
    start, end = max(0, centre - _AROUND), min(len(text), centre + width + _AROUND)
    return ("… " if start else "") + text[start:end] + (" …" if end < len(text) else "")
