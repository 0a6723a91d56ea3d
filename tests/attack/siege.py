"""One damaged copy of a run after another, each met by a few commands: what did not end well."""

import json
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from steerproof.decide.report import figures
from tests.attack.commands import Ended, command, in_a_fork, pages
from tests.attack.damage import KINDS, UNBUILDABLE
from tests.attack.victims import QUIET

EVERY = 8
"""Each so many-th try is a `run`, with `verify` after it."""
CELL = "A.poet.neutral.centroid.L1.c=+2"
_ONE = "/experiments/1"
PAGES = (
    "/", "/table", "/table?sort=seed", _ONE, f"{_ONE}/cells/{CELL}",
    f"{_ONE}/cells/A.judge.neutral.none", f"{_ONE}/cells/{CELL}/completions.csv",
    f"{_ONE}/cells/{CELL}?fired=yes", f"{_ONE}/figures/ranking.svg",
    f"{_ONE}/figures/ranking.svg/large", f"{_ONE}/files/rates.csv", f"{_ONE}/files/verdict.json",
    f"{_ONE}/files/report.html", "/compare?left=1:A&right=1:C", f"{_ONE}/edit",
)  # fmt: skip


@dataclass(slots=True)
class Siege:
    """What was tried, and what failed."""

    tries: Counter[str] = field(default_factory=Counter)
    """By what was damaged."""
    codes: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By command."""
    failures: list[str] = field(default_factory=list)
    """Each with its number, by which it can be had again."""


Reader = Callable[[Path, Path], Iterator[Ended]]


def _words(*words: object) -> Reader:
    """A command whose `RUN`, `OUT` and `E` are the run's directory, a new place, the experiment."""

    def read(place: Path, victim: Path) -> Iterator[Ended]:
        run, out = place / "runs" / "run", place / "out"
        names = {"RUN": run, "OUT": out, "FILE": place / "d.gguf", "E": victim / "e.yaml"}
        yield command(*(names.get(str(word), word) for word in words))

    return read


def _table(place: Path, victim: Path) -> Iterator[Ended]:
    yield command("analyze", place / "runs/run/results/rates.csv", victim / "e.yaml", "--json")


def _completions(place: Path, victim: Path) -> Iterator[Ended]:
    yield command("completions", place / "runs/run", "--out", place / "out.jsonl")
    yield command("completions", place / "runs/run", "--out", place / "out.csv", "--json")


READERS: tuple[Reader, ...] = (
    _words("status", "RUN"),
    _words("status", "RUN", "--json"),
    _words("status", "RUN", "--units", "all"),
    _words("explain", "RUN", f"cell/{CELL}"),
    _words("explain", "RUN", "analysis/all", "--json"),
    _words("verify", "RUN"),
    _words("verify", "RUN", "--json"),
    _words("plan", "E", "--dir", "RUN", "--no-trial"),
    _words("requests", "RUN", "--out", "OUT"),
    _words("adapters", "export", "RUN", "--out", "OUT"),
    _words("directions", "show", "RUN"),
    _words("directions", "export", "RUN", "--out", "FILE", "--to", "gguf", "--name", "poet"),
    _completions,
    _table,
)
"""Each try meets two of these; every eighth `report` too, every forty-eighth `figures`."""


def _met(place: Path, victim: Path, number: int, chance: random.Random) -> Iterator[Ended]:
    """The commands and pages of one try; most reports without figures, which take the longest."""
    if chance.random() < 0.75:
        figures._FIGURES.clear()
    for read in chance.sample(READERS, 2):
        yield from read(place, victim)
    yield from pages(place / "runs", ("/", *chance.sample(PAGES, 3)))
    run = place / "runs" / "run"
    if number % EVERY == 0:
        asked = (run,) if chance.random() < 0.5 else (victim / "e.yaml", "--dir", run)
        yield command("run", *asked, *QUIET)
        yield command("verify", run)
        yield from pages(place / "runs", ("/", _ONE))
    elif number % EVERY == 3:
        yield command("report", run)
    elif number % (6 * EVERY) == 5:
        yield command("figures", run, "--out", place / "out", "--format", "svg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something sound that is copied, damaged, and met by commands."""

    copy: Callable[[Path], None]
    """Make a sound copy at a place that is not there yet."""
    damage: Callable[[Path, random.Random], str]
    """Damage the copy, and say what was done."""
    meet: Callable[[Path, int, random.Random], Iterator[Ended]]
    """What the try of a number asks of the copy."""
    answers: object = None
    """What a run that ends well has found, if its units were not sealed again; None for any."""


def of_a_run(kind: str, victim: Path) -> Target:
    """A finished run, of which a kind of file is damaged.

    Args:
        kind: One of `KINDS`.
        victim: Holds `run` and the experiment that it is of.
    """

    def copy(place: Path) -> None:
        shutil.copytree(victim / "run", place / "runs" / "run")

    return Target(
        copy=copy,
        damage=lambda place, chance: KINDS[kind](place / "runs" / "run", chance),
        meet=lambda place, number, chance: _met(place, victim, number, chance),
        answers=answers_of(victim / "run"),
    )


def besiege(name: str, target: Target, tries: range, place: Path) -> Siege:
    """Damage a copy for each number, and let commands meet it.

    Args:
        name: What is besieged; the same name and number damage alike.
        target: What is copied.
        tries: Their numbers.
        place: Where the copies are made.
    """
    siege, run = Siege(), place / "runs" / "run"
    for number in tries:
        chance = random.Random(f"{name}-{number}")
        shutil.rmtree(place, ignore_errors=True)
        target.copy(place)
        try:
            did = target.damage(place, chance)
        except UNBUILDABLE:
            continue
        siege.tries[did] += 1
        before = contents(run)
        ended = in_a_fork(lambda: target.meet(place, number, chance))  # noqa: B023
        for one in ended:
            siege.codes[one.asked[0].partition("?")[0], one.code] += 1
            siege.seconds[one.asked[0].partition("?")[0]] += one.seconds
        found = None if "sealed" in did or "ledger too" in did else target.answers
        whys = [*wrong(ended, before, run), *_other_answers(ended, found, run)]
        siege.failures += [f"{name} {number} ({did}): {why}" for why in whys]
    shutil.rmtree(place, ignore_errors=True)
    return siege


def wrong(ended: list[Ended], before: Counter[str], run: Path) -> Iterator[str]:
    """What is not as promised: how commands end, what is kept, and what `verify` says after."""
    for one in ended:
        if not one.foreseen:
            yield f"{' '.join(one.asked)} ended with {one.code}: {one.said[-1500:]}"
    codes = [(one.asked[0], one.code) for one in ended]
    if ("run", 0) in codes or ("run", 4) in codes:
        lost = before - contents(run)
        if lost:
            yield f"{lost.total()} files of finished units are gone"
    after = codes[codes.index(("run", 0)) + 1 :] if ("run", 0) in codes else []
    yield from (
        f"verify says {code} after run" for name, code in after if name == "verify" and code
    )


def _other_answers(ended: list[Ended], found: object, run: Path) -> Iterator[str]:
    ended_well = any(one.asked[0] == "run" and one.code == 0 for one in ended)
    if found is not None and ended_well and answers_of(run) != found:
        yield f"another verdict: {answers_of(run)}, not {found}"


def answers_of(run: Path) -> object:
    """What a run has found, in words, and what it was registered as."""
    file = run / "results" / "verdict.json"
    if not file.is_file():
        return None
    said = json.loads(file.read_bytes())
    answers = said["answers"]
    words = (answers["ranking"]["answer"], answers["direction"]["reads"])
    return said["verdict"], said["reason"], said["lock"], *words


def contents(run: Path) -> Counter[str]:
    """The files of finished units by hash; those set aside are still there."""
    return Counter(
        sha256(path.read_bytes()).hexdigest()
        for part in ("units", "quarantine")
        for path in (run / part).rglob("*")
        if path.name != "manifest.json" and path.is_file() and not path.is_symlink()
    )
