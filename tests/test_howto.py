"""docs/howto.md: its experiment is one, its readouts are read, its commands exist as written."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from steerproof.cli import app
from steerproof.errors import ExperimentError
from steerproof.spec.settings import parse_setting, with_settings
from steerproof.spec.sweep import asked_runs, parse_axis
from steerproof.spec.yaml_io import Loaded, parse_experiment
from steerproof.study.readouts.function import function_of

PAGE = (Path(__file__).parents[1] / "docs" / "howto.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)


SMALL, READOUTS, TAUGHT = blocks("yaml")
COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def small():
    return Loaded(
        experiment=parse_experiment(SMALL), text=SMALL, path=Path("small.yaml"), directory=Path()
    )


def test_the_small_experiment_is_one(small):
    assert small.experiment.name == "small"


@pytest.mark.parametrize("line", READOUTS.splitlines())
def test_each_readout_on_the_page_is_one(line):
    experiment = parse_experiment(SMALL + line)
    assert experiment.scoring.readout in line
    assert f"`{experiment.scoring.readout}` |" in PAGE


def test_the_dataset_that_teaches_a_behaviour_is_one():
    taught = re.sub(r"(?m)^dataset:.*\n", TAUGHT, SMALL)
    data, small = parse_experiment(taught).dataset, parse_experiment(SMALL).dataset
    assert data == small.model_copy(update={"positive_answers": "loud.jsonl"})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("readout: regexp, pattern: x", "did you mean 'regex'"),
        ("readout: regex", "needs `pattern`"),
        ("readout: regex, pattern: '('", "is no regular expression"),
        ("readout: regex, pattern: 'x*'", "matches empty text"),
        ("readout: marker, pattern: x", "does not use `pattern`"),
        ("readout: log_probability", "needs `least`"),
        ("readout: function, function: '../up.py:f'", "names no function"),
        ("readout: function, function: '/etc/x.py:f'", "names no function"),
        ("readout: function, function: 'x.py'", "names no function"),
        ("readout: judge", "needs `judgements`"),
    ],
)
def test_other_readouts_are_refused_with_what_is_allowed(line, told):
    with pytest.raises(ExperimentError) as refused:
        parse_experiment(SMALL + f"scoring: {{{line}}}\n")
    assert told in str(refused.value)


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_exists_as_it_is_written(line, small):
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app)
    parameters = command.commands[name].make_context(name, arguments).params
    settings = [parse_setting(text) for text in parameters.get("settings") or ()]
    if settings:
        assert len(with_settings(small, settings)[1]) == len(settings)
    if "over" in parameters:
        axes = [parse_axis(text) for text in parameters["over"]]
        assert len(asked_runs(small, axes, parameters["draws"])) == 6


def test_the_function_on_the_page_says_true_or_false():
    (source,) = (block for block in blocks("python") if "def shouts" in block)
    says = function_of(source.encode(), "readouts.py:shouts")
    assert says("LOUD", "?") is True
    assert says("quiet", "?") is False
