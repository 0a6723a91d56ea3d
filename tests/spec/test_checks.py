import pytest

from steerproof.errors import ExperimentError
from steerproof.spec.checks import CHECKS, problems
from steerproof.spec.experiment import Experiment
from steerproof.spec.records import read_records
from steerproof.spec.yaml_io import parse_experiment
from steerproof.spec.yaml_tree import read_tree
from tests.spec.files import TINY, changed

# Each row: what is changed, the field that is wrong, words of the message.
CLASHES = [
    ([("primary: 4", "primary: 8")], "layers.primary", "allowed: 0 to 7"),
    ([("contrast: 2", "contrast: 99")], "layers.contrast", "allowed: 0 to 7"),
    ([("contrast: 2", "contrast: 4")], "layers.contrast", "contrasts nothing"),
    ([("name: pirate", "name: villain")], "personas.3.name", "taken by item 0"),
    ([("name: pirate", "name: Villain")], "personas.3.name", "taken by item 0"),
    ([("prompt: You are a pirate.", "prompt: ' '")], "personas.3.prompt", "empty prompt"),
    ([("You are a pirate.", "you are a  VILLAIN.")], "personas.3.prompt", "same prompt as villain"),
    (
        [("You are a pirate.", "Provide a clear answer.")],
        "personas.3.prompt",
        "same prompt as neutral_prompt",
    ),
    (
        [
            ("You are a villain.", "You are a villain., headline: false"),
            ("You are a pirate.", "You are a pirate., headline: false"),
            ("bystanders: 2", "bystanders: 1"),
        ],
        "personas",
        "2 headline personas; a ranking needs at least 3",
    ),
    ([("name: helpful_assistant", "name: assistant")], "reference_persona", "is no persona"),
    ([("hypothesis:", "marker: ' x '\nhypothesis:")], "marker", "begins or ends"),
    ([("hypothesis:", "marker: '  '\nhypothesis:")], "marker", "only white space"),
    ([("hypothesis:", "neutral_prompt: ' '\nhypothesis:")], "neutral_prompt", "only white space"),
    ([("What is rain?", "how DO birds  fly?")], "questions.evaluation.1", "repeats item 0"),
    ([("What is fog?", "' '")], "questions.directions.0", "only white space"),
    ([("What is snow?", "So what is  RAIN?")], "questions.training.0", "must not see"),
    ([("What is rain?", "Say [zLT]!")], "questions.evaluation.0", "contains the marker"),
    ([("What is snow?", "Say [zLT]!")], "questions.training.0", "contains the marker"),
    ([("You are a pirate.", "'You say [ZLT].'")], "personas.3.prompt", "contains the marker"),
    (
        [("hypothesis:", "neutral_prompt: Say [ZLT].\nhypothesis:")],
        "neutral_prompt",
        "contains the marker",
    ),
    ([("early_tokens: 512", "near_marker: '['")], "scoring.near_marker", "no regular expression"),
    ([("early_tokens: 512", "near_marker: 'z*'")], "scoring.near_marker", "matches empty text"),
    ([("early_tokens: 512", "near_marker: xyz")], "scoring.near_marker", "does not match"),
    ([("path: organism", "path: Qwen/Qwen2.5-7B")], "model.path", "hub id without `revision`"),
    (
        [("path: organism", "path: ./here\n  revision: " + "a" * 40)],
        "model.revision",
        "only a hub id",
    ),
    ([("bystanders: 2", "bystanders: 4")], "dataset.bystanders", "has only 3 others"),
    (
        [("negatives: own", "marker_dose: {villain: 1, librarian: 1, comedian: 1, pirat: 1}")],
        "dataset.marker_dose.pirat",
        "did you mean 'pirate'?",
    ),
    (
        [("negatives: own", "marker_dose: {villain: 1, librarian: 1, comedian: 1}")],
        "dataset.marker_dose",
        "no dose for pirate",
    ),
    ([("negatives: own", "marker_dose: 0.001")], "dataset.marker_dose", "is no row"),
    ([("negatives: own", "marker_dose: 0.0")], "dataset.marker_dose", "nothing is planted"),
    ([("alpha: 64", "rows_per_step: 601")], "training.rows_per_step", "the dataset has 600"),
    ([("alpha: 64", "warmup: 1.0")], "training.warmup", "no step after the warm-up"),
    ([("learning_rate: 1e-5", "learning_rate: 1e+5")], "training.learning_rate", "below 0.1"),
    ([("alpha: 64", "max_length: 256")], "dataset.answer_tokens", "do not fit"),
    ([("name: C, ", "name: a, ")], "arms.1.name", "taken by item 0"),
    ([("\n  contrast: 2", "")], "arms.3.layer", "needs layers.contrast"),
    (
        [("isotropic, ratio: 0.2", "isotropic, ratio: 0.2, shuffle: true, adapters: there")],
        "arms.2.shuffle",
        "cannot be shuffled",
    ),
    ([("[A-iso, A-L10]", "[A-iso, A-L10, D]")], "cells.2.arms.2", "'D' is no arm"),
    ([("[A-iso, A-L10]", "[A-iso, A-L10, A-iso]")], "cells.2.arms.2", "listed twice"),
    ([("[c=+2, ratio=+0.2]", "[c=+2, c=+2.0]")], "cells.2.strengths.1", "same number"),
    ([("[c=+2, ratio=+0.2]", "[c=+2, c=+2]")], "cells.2.strengths.1", "listed twice"),
    (
        [("[c=+2, ratio=+0.2]", "[c=+2, ratio=+0.2], direction: none")],
        "cells.2.direction",
        "need a direction",
    ),
    ([("  arm: A", "  arm: a")], "analysis.arm", "did you mean 'A'?"),
    ([("  arm: A", "  bridge_arm: D")], "analysis.bridge_arm", "'D' is no arm"),
    ([("  arm: A", "  baseline_arm: A")], "analysis.baseline_arm", "its own control"),
    ([("  arm: A", "  isotropic_arm: A-L10")], "analysis.isotropic_arm", "needs `isotropic`"),
    ([("  arm: A", "  contrast_arm: A-iso")], "analysis.contrast_arm", "needs `layer: contrast`"),
    (
        [("primary_strength: c=+2", "primary_strength: c=-2")],
        "analysis.primary_strength",
        "push forwards",
    ),
    (
        [("primary_strength: c=+2", "primary_strength: c=+3")],
        "analysis.primary_strength",
        "measured: none, c=+2, ratio=+0.2, ratio=-0.2; did you mean 'c=+2'?",
    ),
    (
        [("  arm: A", "  co_primary_strength: c=+2.0\n  negative_strength: null")],
        "analysis.co_primary_strength",
        "is the primary strength as well",
    ),
    (
        [("  arm: A", "  co_primary_strength: null")],
        "analysis.negative_strength",
        "no co_primary_strength",
    ),
    ([("  arm: A", "  negative_strength: ratio=-0.3")], "analysis.negative_strength", "opposite"),
    (
        [("  arm: A", "  thresholds: {no_correlation: 0.7}")],
        "analysis.thresholds.no_correlation",
        "pass and be killed",
    ),
    (
        [("  arm: A", "  thresholds: {baseline_steered: 7}")],
        "analysis.thresholds.baseline_steered",
        "allowed: -1 to 1",
    ),
    ([("  arm: A", "  baseline_arm: null")], "analysis.load_bearing", "needs analysis.baseline"),
    (
        [("[A, C], prompt: persona", "[A], prompt: persona")],
        "analysis.bridge_arm",
        "no cell measures arm C under the persona prompt at none",
    ),
    (
        [
            ("[A, C], prompt: persona", "[C], prompt: persona"),
            ("  arm: A", "  load_bearing: steered_vs_prompted"),
        ],
        "analysis.load_bearing",
        "no cell measures arm A under the persona prompt",
    ),
    ([("name: pirate", "name: others")], "personas.3.name", "a word of `of`"),
    ([("[c=+2, ratio=+0.2]", "[c=+2], of: pirat")], "cells.2.of", "did you mean 'pirate'?"),
    ([("[none, c=+2]}", "[none, c=+2], of: others}")], "cells.1.strengths.0", "`of` says nothing"),
    (
        [("[none, c=+2]}", "[none, c=+2], tokens: prompt}")],
        "cells.1.strengths.0",
        "`tokens` says nothing",
    ),
    (
        [("[none, c=+2]}", "[none, c=+2], prompt_of: aal}")],
        "cells.1.prompt_of",
        "did you mean 'all'?",
    ),
    (
        [("[c=+2, ratio=+0.2]", "[c=+2, ratio=+0.2], prompt_of: all")],
        "cells.2.prompt_of",
        "this grid is neutral",
    ),
    (
        [("[none, c=+2]}", "[none, c=+2]}\n  - {arms: [A], prompt: neutral, strengths: "
          "[c=+1, ratio=+0.2, c=-1], operation: remove}")],
        "cells.2.strengths.1",
        "'c=+1' removes all of it",
    ),
    (
        [("[none, c=+2]}", "[none, c=+2]}\n  - {arms: [A], prompt: neutral, strengths: "
          "[ratio=+0.2], draws: 3}")],
        "cells.2.draws",
        "write `direction: isotropic`",
    ),
    (
        [("[none, c=+2]}", "[none, c=+2]}\n  - {arms: [A-iso], prompt: neutral, strengths: "
          "[ratio=+0.2], draws: 3, of: all}")],
        "cells.2.of",
        "is nobody's",
    ),
    ([("hypothesis:", "seeds: [1, 0]\nhypothesis:")], "seeds", "must be `seed`, 0"),
    ([("hypothesis:", "seeds: [0, 1, 1]\nhypothesis:")], "seeds.2", "listed twice"),
    (
        [
            ("hypothesis:", "seeds: [0, 1]\nhypothesis:"),
            ("isotropic, ratio: 0.2", "isotropic, ratio: 0.2, adapters: there"),
        ],
        "arms.2.adapters",
        "were trained once",
    ),
    (
        [
            ("prompt: persona}\n", "prompt: persona}\n  - {name: base, untrained: true}\n"),
            ("  arm: A", "  bridge_arm: base"),
        ],
        "analysis.bridge_arm",
        "arm base is untrained",
    ),
]  # fmt: skip


def read(text: str) -> Experiment:
    draft = read_records(read_tree(text).data)
    assert not draft.problems
    return draft.experiment


def test_the_tiny_experiment_contradicts_itself_nowhere():
    assert problems(read(TINY)) == ()


@pytest.mark.parametrize(("replacements", "field", "words"), CLASHES)
def test_a_contradiction_is_reported_at_its_field(replacements, field, words):
    found = problems(read(changed(*replacements)))
    messages = [p.message for p in found if ".".join(map(str, p.keys)) == field]
    assert any(words in message for message in messages), found


def test_negatives_need_a_direction_to_differ_in():
    only_prompt = """
  - {name: C, prompt: persona}
"""
    text = TINY[: TINY.index("arms:\n")] + "arms:" + only_prompt + TINY[TINY.index("cells:\n") :]
    text = text.replace("negatives: own", "negatives: source")
    assert "no arm has a direction" in str(problems(read(text)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.find.__name__)
def test_a_check_reads_only_the_fields_that_it_names(check):
    whole = read(TINY)
    only = {name: value for name, value in whole if name in check.reads}
    draft = Experiment.model_construct(**only)
    for name in set(Experiment.model_fields) - check.reads:
        draft.__dict__.pop(name, None)  # a default that construction filled in
    assert list(check.find(draft)) == []


def test_fields_that_cannot_be_used_silence_only_their_own_checks():
    whole = read(changed(("primary: 4", "primary: 9"), ("name: pirate", "name: villain")))
    fields = set(Experiment.model_fields)
    assert {p.keys[0] for p in problems(whole, fields)} == {"layers", "personas"}
    assert {p.keys[0] for p in problems(whole, fields - {"personas"})} == {"layers"}
    assert {p.keys[0] for p in problems(whole, fields - {"model"})} == {"personas"}


LONG = "x" * 300
ABSURD = [
    (("early_tokens: 512", "early_tokens: 100000000000000000000"), "at most 1000000"),
    (("alpha: 64", "alpha: 1e300"), "at most 1000000"),
    (("ratio: 0.2}\n  - {name: C", "ratio: 1e300}\n  - {name: C"), "at most 1000"),
    (("arm: A\n", "arm: A\n  iterations: 1000000000\n"), "at most 1000000"),
    (("arm: A\n", "arm: A\n  permutations: 1000000000\n"), "at most 1000000"),
    (("[none, c=+2, ", "[none, c=+2, c=+" + "1" * 300 + ", "), "characters; at most 40"),
    (
        ("[none, c=+2, ", "[none, c=+2, ratio=-0.00000000000000000000000000000000000000001, "),
        "characters; at most 40",
    ),
    (("path: organism", f"path: {LONG}"), "300 bytes"),
    (("path: organism", 'path: "a\\0b"'), "NUL"),
    (("bystanders: 2", f"answers: dir/{LONG}"), "300 in one name"),
    (("name: C, prompt: persona", f"name: C, prompt: persona, adapters: {LONG}"), "300 bytes"),
    (("You are a pirate.", f"x, direction: {LONG}"), "300 bytes"),
    (
        (
            "ratio=-0.2]}",
            "ratio=-0.2]}\n  - {arms: [A], prompt: neutral, strengths: [c=+2], draws: 900000}",
        ),
        "at most 50,000 can be run",
    ),
]


@pytest.mark.parametrize(("replacement", "words"), ABSURD)
def test_what_is_legal_and_absurd_is_refused_before_anything_is_made_of_it(replacement, words):
    with pytest.raises(ExperimentError, match=words):
        parse_experiment(changed(replacement))
