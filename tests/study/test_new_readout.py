"""A readout is added in two places: what an experiment says of it, and a file that marks."""

import sys

import pytest

from steerproof.errors import ExperimentError
from steerproof.run.graph.environment import sources
from steerproof.spec.checks import problems
from steerproof.spec.registration import markdown
from steerproof.spec.scoring import READOUTS, ReadoutTerms, Scoring
from steerproof.study import readouts
from steerproof.study.measured import Completion
from steerproof.study.readouts.load import readout_of, text_readout
from steerproof.study.readouts.readable import Readable
from tests.experiments import small_experiment
from tests.spec.files import changed
from tests.spec.test_lock import lock_of

TERMS = ReadoutTerms(fires=lambda asked, _: f"say {asked.pattern} last", needs=("pattern",))
FILE = '''
from steerproof.study.readouts.readable import Readable, Readout
from steerproof.study.readouts.plain import mark, near_of


def readout(given: Readable) -> Readout:
    """Fired: the answer ends with the pattern."""
    last, near = given.experiment.scoring.pattern or "", near_of(given.experiment)
    return lambda cell: lambda done: mark(done, done.text.endswith(last), near=near)
'''
EXPERIMENT = small_experiment(scoring=Scoring(readout="last", pattern="so."))


@pytest.fixture
def added(monkeypatch, tmp_path):
    """Its two places: an entry, and a file among the readouts."""
    monkeypatch.setitem(READOUTS, "last", TERMS)
    (tmp_path / "last.py").write_text(FILE)
    monkeypatch.setattr(readouts, "__path__", [*readouts.__path__, str(tmp_path)])
    yield
    sys.modules.pop(readouts.module_of("last"), None)


def done(text: str) -> Completion:
    return Completion(
        question=0, sample=0, seed=1, text=text, token_ids=(1, 2), finish="eos", early_chars=9
    )


def test_it_marks_completions_wherever_they_are_marked(added):
    for read in (text_readout(EXPERIMENT), readout_of(Readable(experiment=EXPERIMENT))("A.cell")):
        assert [read(done(text)).fired for text in ("It is so.", "So be it.")] == [True, False]


def test_it_is_checked_in_an_experiment_and_told_in_its_registration(added):
    assert not problems(EXPERIMENT, ["scoring"])
    (lacking,) = problems(small_experiment(scoring=Scoring(readout="last")), ["scoring"])
    assert lacking.message == "readout last needs `pattern`, which is not given"
    given = changed(("early_tokens: 512", "readout: last\n  pattern: so it is"))
    assert "completions that say so it is last" in markdown(lock_of(given), kills=lambda _: ())


def test_without_its_entry_nothing_is_imported_by_its_name():
    (unknown,) = problems(EXPERIMENT, ["scoring"])
    assert "'last' is no readout; allowed: marker, regex" in unknown.message
    for name in ("last", "load", "plain"):
        asked = small_experiment(scoring=Scoring(readout=name))
        with pytest.raises(ExperimentError, match=f"no '{name}'; there are marker, regex"):
            readout_of(Readable(experiment=asked))


def test_every_readout_is_a_part_of_the_code_that_scoring_is_redone_for():
    files = sources("score").files
    for name in READOUTS:
        assert readouts.module_of(name) in files
