import json
import os
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from steerproof.errors import ExperimentError
from steerproof.spec.experiment import Experiment
from steerproof.spec.yaml_io import find_experiment, load_experiment, parse_experiment, shipped
from steerproof.spec.yaml_tree import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, MAX_VALUES
from tests.spec.files import TINY, changed


def complaint(text: str) -> str:
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(text, "f.yaml")
    return str(caught.value)


def test_a_file_becomes_the_record_and_remembers_where_it_lay(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    loaded = load_experiment(path)
    assert loaded.experiment.headline == ("villain", "librarian", "comedian", "pirate")
    assert loaded.experiment.training.learning_rate == 1e-5  # a number, which YAML 1.1 would miss
    assert loaded.experiment.training.alpha == 64.0
    assert (loaded.text, loaded.path, loaded.directory) == (TINY, path, tmp_path.resolve())


# Each row: what is changed, with § before every place that must be pointed at, and the messages
# there, in the order of the file.
SLIPS = {
    "unknown key": (
        [("\nlayers:", "\n§layers:"), ("  primary: 4", "  §primry: 4")],
        [
            "layers.primary: missing: The layer of the hypothesis.",
            "layers.primry: unknown key; allowed: primary, contrast; did you mean 'primary'?",
        ],
    ),
    "unknown section": (
        [("scoring:", "§scorng:")],
        [
            "scorng: unknown key; allowed: name, title, hypothesis, seed, seeds, data_seed, model, "
            "marker, neutral_prompt, reference_persona, personas, questions, layers, gates, "
            "dataset, training, arms, cells, generation, scoring, analysis, answers, exploratory; "
            "did you mean 'scoring'?"
        ],
    ),
    "duplicate keys, both": (
        [
            ("title: A", "§name: x\ntitle: A"),
            ("  contrast: 2", "  contrast: 2\n  §primary: 3"),
        ],
        [
            "key 'name' is written twice; first in line 2",
            "key 'layers.primary' is written twice; first in line 26",
        ],
    ),
    "text for a number": (
        [("learning_rate: 1e-5", "learning_rate: §fast")],
        ["training.learning_rate: 'fast': a number is needed"],
    ),
    "number for text": (
        [("title: A tiny experiment", "title: §12")],
        ["title: 12: text is needed; quote it if it looks like a number"],
    ),
    "fraction for a whole number": (
        [("blocks: 8", "blocks: §8.5")],
        ["model.blocks: 8.5: a whole number is needed"],
    ),
    "truth for a number": (
        [("alpha: 64", "alpha: §true")],
        ["training.alpha: true: a number is needed"],
    ),
    "out of bounds": (
        [("alpha: 64", "alpha: §-1")],
        ["training.alpha: -1: must be above 0.0"],
    ),
    "not finite": (
        [("alpha: 64", "alpha: §.inf")],
        [".inf is not a finite number"],
    ),
    "one of a few words": (
        [("negatives: own", "negatives: §unstered")],
        [
            "dataset.negatives: 'unstered': allowed is 'own', 'source' or 'unsteered'; "
            "did you mean 'unsteered'?"
        ],
    ),
    "list or word, misspelt": (
        [("\n    - What is fog?\n    - How do bats hang?", " §evaluatoin")],
        [
            "questions.directions: 'evaluatoin': a list is needed or allowed is 'evaluation' or "
            "'training'; did you mean 'evaluation'?"
        ],
    ),
    "list or word, one item wrong": (
        [("What is fog?", "§7")],
        ["questions.directions[0]: 7: text is needed; quote it if it looks like a number"],
    ),
    "number or mapping, one entry wrong": (
        [
            ("negatives: own", "marker_dose: {villain: 0.5, pirate: §2}"),
        ],
        ["dataset.marker_dose.pirate: 2: must be at most 1.0"],
    ),
    "missing section": (
        [("name: tiny", "§name: tiny"), ("layers:\n  primary: 4\n  contrast: 2\n", "")],
        ["layers: missing: Layers of the direction."],
    ),
    "missing in an item": (
        [("{name: pirate, prompt: You are a pirate.}", "§{name: pirate}")],
        [
            "personas[3].prompt: missing: System prompt; empty only for a supplementary persona "
            "(the model's default)."
        ],
    ),
    "bad name": (
        [("name: pirate", "name: §a pirate")],
        [
            "personas[3].name: 'a pirate': allowed is 1 to 64 letters, digits, '_' and '-', "
            "the first a letter or digit"
        ],
    ),
    "strength without sign": (
        [("[c=+2, ratio=+0.2]", "[c=+2, §ratio=0.2]")],
        [
            "cells[2].strengths[1]: strength 'ratio=0.2' must be 'none', 'c=+2' or 'ratio=-0.2', "
            "with sign"
        ],
    ),
    "direction without ratio": (
        [
            (
                "{name: A-iso, prompt: neutral, direction: isotropic, ratio: 0.2}",
                "§{name: A-iso, prompt: neutral, direction: isotropic}",
            )
        ],
        ["arms[2]: arm A-iso with direction isotropic needs a ratio, such as 0.20"],
    ),
    "empty list": (
        [("\n    - What is rain?\n    - How do birds fly?", " §[]")],
        ["questions.evaluation: 0 items: at least 1 needed"],
    ),
    "scalar for a section": (
        [("layers:\n  primary: 4\n  contrast: 2\n", "layers: §4\n")],
        ["layers: 4: a mapping is needed"],
    ),
    "foreign tag": (
        [("path: organism", "path: §!!python/name:os.system organism")],
        ["tag !!python/name:os.system is not allowed; write a plain value"],
    ),
    "key that is a list": (
        [("scoring:", "? §[a]\n: 1\nscoring:")],
        ["a key must be text, not a list or a mapping"],
    ),
    "wrong by default": (
        [
            ("  - {name: A-iso, prompt: neutral, direction: isotropic, ratio: 0.2}\n", ""),
            ("[A-iso, A-L10]", "[A-L10]"),
            ("analysis:", "§analysis:"),
        ],
        [
            "analysis.isotropic_arm (by default): 'A-iso' is no arm; allowed: A, C, A-L10; "
            "write null to leave it out"
        ],
    ),
}


def pointed_at(text: str) -> tuple[str, list[str]]:
    """The text without its § marks, and `line:column` of each mark, both counted from 1."""
    places = []
    for number, line in enumerate(text.split("\n"), start=1):
        before = line.split("§")[:-1]
        places += [f"{number}:{len(''.join(before[: i + 1])) + 1}" for i in range(len(before))]
    return text.replace("§", ""), places


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_reported_at_its_line_and_column_and_nothing_else_is(slip):
    replacements, messages = SLIPS[slip]
    text, places = pointed_at(changed(*replacements))
    lines = [f"f.yaml:{at}: {what}" for at, what in zip(places, messages, strict=True)]
    assert complaint(text).splitlines() == lines


def test_every_problem_is_reported_at_once_whatever_its_kind():
    text, places = pointed_at(
        changed(
            ("title: A", "§titel: A"),
            ("primary: 4\n  contrast: 2", "primary: §9\n  §contrst: 2"),
            ("name: pirate", "name: §Villain"),
            ("- What is snow?", "- §So WHAT is   rain?"),
            ("- How do fish swim?", "- §Say [zlt]!"),
            ("bystanders: 2", "bystanders: 2\n  §bystanders: 9"),
            ("learning_rate: 1e-5", "learning_rate: §fast"),
            ("[A-iso, A-L10]", "[A-iso, §A-L11]"),
        )
    )
    report = complaint(text).splitlines()
    # Two more follow from these: the title is missing, and the contrast arm has no layer.
    assert set(places) < {":".join(line.split(":")[1:3]) for line in report}
    assert any("title: missing" in line for line in report)


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("", "f.yaml:1:1: the file is empty"),
        ("# nothing\n", "f.yaml:1:1: the file is empty"),
        ("name: [x", "f.yaml:1:9: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\nb: c: d\n", "f.yaml:2:5: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "f.yaml:2:1: found character '\\t' that cannot start any token"),
        ("a: *x\n", "f.yaml:1:4: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document starts; allowed: one"),
        ("%YAML 1.1\n---\na: no\n", "f.yaml:2:1: YAML version must be 1.2"),
        ("a: 1\nb: \x07\n", "f.yaml:2:4: character U+0007 is not allowed"),
        ("a: " + "[" * 3000, f"f.yaml:1:{3 + MAX_DEPTH}: nested deeper than {MAX_DEPTH}"),
        ("a: &a [*a]\n", f"f.yaml:1:4: nested deeper than {MAX_DEPTH}"),
    ],
)
def test_text_that_is_no_single_yaml_document_is_refused_where_reading_stops(text, report):
    assert complaint(text) == report


def test_aliases_cannot_grow_without_bound():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 8):
        rows.append(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]")
    assert f"more than {MAX_VALUES} values" in complaint("\n".join(rows))
    many = "a: &a 1\nb: [" + ", ".join(["*a"] * (MAX_ALIASES + 1)) + "]\n"
    assert f"more than {MAX_ALIASES} aliases" in complaint(many)


def test_a_file_that_is_too_large_or_not_utf8_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ExperimentError, match=f"{MAX_BYTES + 1} bytes; allowed: {MAX_BYTES}"):
        load_experiment(path)
    path.write_bytes("name: tiny\ntitle: d\u00e9j\u00e0 ".encode() + b"\xff vu\n")
    with pytest.raises(ExperimentError, match=r"large\.yaml:2:13: byte 0xff is not UTF-8"):
        load_experiment(path)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TINY.replace("\n", "\r\n").encode())
    assert load_experiment(path).experiment == parse_experiment(TINY)


def test_yaml_one_point_two_words_are_words():
    text = changed(("title: A tiny experiment", "title: no"), ("What is fog?", "2001-12-14"))
    experiment = parse_experiment(text)
    assert experiment.title == "no"
    assert experiment.questions.directions[0] == "2001-12-14"


def test_a_source_is_a_path_or_a_shipped_name_and_a_slip_names_what_exists(tmp_path):
    (tmp_path / "mine.yaml").write_text(TINY, encoding="utf-8")
    assert find_experiment(tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    with pytest.raises(ExperimentError, match=r"mien\.yaml; did you mean 'mine\.yaml'\?"):
        find_experiment(tmp_path / "mien.yaml")
    with pytest.raises(ExperimentError, match=r"directory; give the experiment file in it: mine\."):
        find_experiment(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(ExperimentError, match=r"is lost, give .* own file, and --dir .*run$"):
        find_experiment(tmp_path / "run")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ExperimentError, match=r"pipe\.yaml is a pipe or a device"):
        find_experiment(tmp_path / "pipe.yaml")
    name = next(iter(shipped()))
    assert find_experiment(name) == shipped()[name]
    with pytest.raises(ExperimentError, match=f"shipped: .*{name}.*; did you mean '{name}'"):
        find_experiment(name + "x")


def test_every_shipped_experiment_is_valid_and_has_its_own_name():
    folder = Path(__file__).parents[2] / "experiments"
    paths = [p for p in folder.rglob("*.yaml") if not p.name.startswith("_")]
    assert paths
    assert sorted(p.resolve() for p in shipped().values()) == sorted(p.resolve() for p in paths)
    assert {load_experiment(path).experiment.name for path in paths} == {p.stem for p in paths}


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda text: text.strip() and "[zlt]" not in text.casefold()
)


@settings(max_examples=25, deadline=None)
@given(
    title=texts,
    hypothesis=texts,
    seed=st.integers(0, 2**31 - 1),
    rate=st.floats(1e-12, 0.09),
    dose=st.one_of(st.floats(0.01, 1.0), st.just(1)),
    blocks=st.integers(5, 200),
)
def test_what_is_written_as_yaml_is_read_back(title, hypothesis, seed, rate, dose, blocks):
    values = json.loads(parse_experiment(TINY).model_dump_json())
    values |= {"title": title, "hypothesis": hypothesis, "seed": seed}
    values["training"]["learning_rate"] = rate
    values["model"]["blocks"] = blocks
    values["dataset"]["marker_dose"] = dose
    wanted = Experiment.model_validate_json(json.dumps(values))
    # JSON is YAML 1.2; its escapes keep every character.
    assert parse_experiment(json.dumps(values)) == wanted
    assert parse_experiment(as_blocks(values)) == wanted


def as_blocks(values: object) -> str:
    """Written by another YAML emitter, in block style."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    stream = StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()


def test_an_unknown_key_of_joined_signs_is_one_complaint_like_any_other():
    with pytest.raises(ExperimentError, match="unknown key"):
        parse_experiment(TINY + '"\U0001f3f4\u200d\u2620\ufe0f": 5\n')


def test_half_of_a_byte_order_mark_is_told_where_it_stands(tmp_path):
    (tmp_path / "e.yaml").write_bytes(b"\xef\xbb" + TINY.encode())
    with pytest.raises(ExperimentError, match=r"e\.yaml:1:1: byte 0xef is not UTF-8"):
        load_experiment(tmp_path / "e.yaml")
