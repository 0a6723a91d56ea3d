"""`--set`: typed, in the text that is kept and locked, and named where it does not fit."""

import pytest

from steerproof.errors import ExperimentError
from steerproof.spec.settings import directory_name, parse_setting, with_settings
from steerproof.spec.yaml_io import Loaded, load_experiment, parse_experiment


@pytest.fixture(scope="module")
def zlt():
    return load_experiment("zlt")


def put(loaded, *texts):
    return with_settings(loaded, [parse_setting(text) for text in texts])


def test_a_value_is_typed_written_into_the_text_and_told(zlt):
    made, changes = put(zlt, "training.learning_rate=1e-3", "layers.primary=2", "arms[A].ratio=0.3")
    experiment = made.experiment
    assert (experiment.training.learning_rate, experiment.layers.primary) == (1e-3, 2)
    assert experiment.arm("A").ratio == 0.3
    assert {str(change) for change in changes} == {
        "training.learning_rate: 0.003 -> 0.001",
        "layers.primary: 3 -> 2",
        "arms[A].ratio: 0.2 -> 0.3",
    }
    assert parse_experiment(made.text) == experiment
    assert made.text.startswith("# set beside the file: training.learning_rate=1e-3\n")
    comments = [line for line in zlt.text.splitlines() if line.lstrip().startswith("#")]
    assert comments
    assert set(comments) <= set(made.text.splitlines())


def test_nothing_set_changes_nothing(zlt):
    assert put(zlt) == (zlt, ())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("marker=[XYZ]", "[XYZ]"),  # a list to YAML, and text is needed
        ("marker=12", "12"),
        ("marker=: {a", ": {a"),  # no YAML at all
        ('marker="[Q]"', "[Q]"),
        ("marker=a: b", "a: b"),
    ],
)
def test_where_text_is_needed_it_is_text(zlt, text, value):
    assert put(zlt, text)[0].experiment.marker == value


def test_sections_that_the_file_leaves_out_are_made(zlt):
    made, _ = put(zlt, "answers.draws=200", "analysis.thresholds.rho=0.5", "seeds=[0, 1]")
    experiment = made.experiment
    assert (experiment.answers.draws, experiment.seeds) == (200, (0, 1))
    assert experiment.analysis.thresholds.rho == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("training.learning_rat=1", "training has no 'learning_rat'; allowed: rank, alpha"),
        ("training.learning_rat=1", "did you mean 'learning_rate'?"),
        ("learning_rate=1", "did you mean 'training.learning_rate'?"),
        ("arms[a-iso].ratio=1", "allowed: 0 to 6, or A, B, C, A-iso, A-L10, base; did you mean"),
        ("layers.primary=99", "99 is no block of a model with 6; allowed: 0 to 5"),
        ("training.rank=x", "'x': a whole number is needed"),
        ("training.rank=1.5", "1.5: a whole number is needed"),
        ("training.dropout=1", "must be below 1"),
        ("seed", "write PLACE=VALUE"),
        ("layers..primary=1", "is no place"),
        ("layers.primary.x=2", "layers.primary is 3, so"),
        ("layers.contrast=null", "arms[4].layer"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(zlt, text, told):
    with pytest.raises(ExperimentError, match="set") as refused:
        put(zlt, text)
    assert told in str(refused.value)


def test_a_field_is_set_once(zlt):
    with pytest.raises(ExperimentError, match="set twice"):
        put(zlt, "arms[A].ratio=1", "arms[0].ratio=2")


def test_an_alias_is_not_set_at_its_other_place():
    zlt = load_experiment("zlt")
    head, *grids = zlt.text.split("strengths: [ratio=+0.2], of: all")
    assert len(grids) > 1
    first, *others = grids
    text = head + "strengths: &s [ratio=+0.2], of: all" + first
    text += "".join("strengths: *s, of: all" + rest for rest in others)
    aliased = Loaded(
        experiment=parse_experiment(text), text=text, path=zlt.path, directory=zlt.directory
    )
    place = next(i for i, grid in enumerate(aliased.experiment.cells) if grid.of == "all")
    made, changes = put(aliased, f"cells[{place}].strengths[0]=ratio=+0.3")
    assert [change.field for change in changes] == [f"cells[{place}].strengths[0]"]
    assert made.experiment.cells[place + 1] == aliased.experiment.cells[place + 1]


def test_other_settings_have_another_directory():
    names = {
        directory_name([parse_setting(text)])
        for text in ("marker=a/b", "marker=a_b", "marker=a b", f"marker={'x' * 300}")
    }
    assert len(names) == 4
    assert all("/" not in name and len(name) < 128 for name in names)
    assert directory_name([parse_setting("layers.primary=18")]) == "layers.primary=18"
