"""Fired: somebody read the answer and says so, in a CSV joined by row id. No torch, no calls.

A row id is made of the cell, the question, the sample and the text itself, so a judgement cannot be
joined to another text than the one that was judged. It says nothing of the arm or the persona, and
completions are handed out in its order: the judge is blind.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from steerproof.errors import ExperimentError
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.plain import mark, near_of
from steerproof.study.readouts.readable import Readable, Readout

ID, FIRED, SCORE = "row_id", "fired", "score"
_SAYS = {
    **dict.fromkeys(("1", "true", "yes", "fired"), True),
    **dict.fromkeys(("0", "false", "no", "not fired"), False),
}
_NAMED = 3
"""Rows that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the judge says of one answer."""

    fired: bool
    score: float | None = None


Judgements = Mapping[str, Judgement]
"""By row id."""


def row_id(cell: str, completion: Completion) -> str:
    """Which completion a judgement is about: 16 hex digits."""
    whole = f"{cell}\x00{completion.question}\x00{completion.sample}\x00{completion.text}"
    return hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:16]


def read_judgements(content: bytes, name: str, least: float | None) -> Judgements:
    """Read a CSV with a row for each answer.

    Args:
        content: Of the file.
        name: Its name, for messages.
        least: From this score on an answer fires; None where the file says so itself.

    Raises:
        ExperimentError: With the line, for what is no such CSV, a row that stands there twice, or
            a word that is neither yes nor no.
    """
    try:
        text = content.decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        column = FIRED if least is None else SCORE
        heads = lines.fieldnames or []
        if ID not in heads or column not in heads:
            raise ExperimentError(
                f"{name}: its columns are {', '.join(map(str, heads)) or 'none'}; needed: {ID} and"
                f" {column}" + ("; for a score give scoring.least" if SCORE in heads else "")
            )
        judged: dict[str, Judgement] = {}
        for row in lines:
            where = f"{name}:{lines.line_num}"
            known = (row[ID] or "").strip()
            if known in judged:
                raise ExperimentError(f"{where}: {ID} {known[:40]!r} stands there twice")
            judged[known] = _judgement(row[column] or "", where, least)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExperimentError(f"{name}: is no CSV in UTF-8: {error}") from None
    return judged


def _judgement(word: str, where: str, least: float | None) -> Judgement:
    said = word.strip().lower()
    if least is None:
        if said not in _SAYS:
            raise ExperimentError(f"{where}: {FIRED} is {word[:40]!r}; allowed: {', '.join(_SAYS)}")
        return Judgement(fired=_SAYS[said])
    try:
        score = float(said)
    except ValueError:
        score = float("nan")
    if not abs(score) < float("inf"):
        raise ExperimentError(f"{where}: {SCORE} is {word[:40]!r}; a finite number is needed")
    return Judgement(fired=score >= least, score=score)


def check_whole(judged: Judgements, wanted: Iterable[str], name: str) -> None:
    """Every completion has its judgement, and there is none of anything else.

    Raises:
        ExperimentError: With how many rows are missing or of no completion.
    """
    ids = set(wanted)
    missing, foreign = sorted(ids - set(judged)), sorted(set(judged) - ids)
    if missing or foreign:
        raise ExperimentError(
            f"{name}: {len(missing)} of {len(ids)} completions are not judged{_some(missing)},"
            f" {len(foreign)} rows are of no completion of this run{_some(foreign)}; export them"
            " again with `steerproof completions RUN --out FILE`, and judge all"
        )


def _some(ids: list[str]) -> str:
    return f" (such as {', '.join(i[:40] for i in ids[:_NAMED])})" if ids else ""


def readout(given: Readable) -> Readout:
    """Marks completions by what the judge said of each.

    Raises:
        ExperimentError: The judgements are not there yet, or are not those of these completions.
    """
    scoring, near = given.experiment.scoring, near_of(given.experiment)
    if given.file is None:
        raise ExperimentError(
            f"all is measured, and scoring.judgements, {given.path}, is not there yet: export the"
            " completions with `steerproof completions RUN --out FILE`, let them be judged, put the"
            " judgements there, and run again"
        )
    name = scoring.judgements or ""
    judged = read_judgements(given.file, name, scoring.least)
    ids = (row_id(cell, done) for cell, every in given.completions.items() for done in every)
    check_whole(judged, ids, name)

    def read(completion: Completion, cell: str) -> Mark:
        said = judged[row_id(cell, completion)]
        return mark(completion, said.fired, near=near, value=said.score)

    return lambda cell: partial(read, cell=cell)
