"""What a readout is made from, and what it is. No torch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steerproof.decide.analysis.slots import SlotRow
from steerproof.spec.experiment import Experiment
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion

Marks = Callable[[Completion], Mark]
"""Marks one completion."""
Readout = Callable[[str], Marks]
"""What marks the completions of a cell, by the cell's name."""
Weighed = Mapping[tuple[int, int], float | None]
"""Log-probability of the marker by question and sample; None for an answer without an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """What was measured, and what else there is to mark it by."""

    experiment: Experiment
    completions: Mapping[str, Sequence[Completion]] = field(default_factory=dict)
    """By cell."""
    weighed: Mapping[str, Weighed] = field(default_factory=dict)
    """By cell; empty for a readout that does not ask for slots."""
    path: Path = Path()
    """Where its file is to be, if it reads one."""
    file: bytes | None = None
    """What that file holds, as it was hashed; None where there is none yet."""


def weighed_in(rows: Iterable[SlotRow]) -> Mapping[str, Weighed]:
    """What the model gave the marker at the end of each own completion, by cell."""
    weighed: defaultdict[str, dict[tuple[int, int], float | None]] = defaultdict(dict)
    for row in rows:
        if row.text == "own":
            weighed[row.cell][row.question, row.number] = row.log_prob_marker
    return dict(weighed)
