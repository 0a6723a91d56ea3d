import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerproof.codec import canonical
from steerproof.decide.analysis.kills import conditions
from steerproof.errors import IntegrityError, RegistrationError
from steerproof.spec.changes import differences
from steerproof.spec.lock import (
    Lock,
    append_deviation,
    changes,
    check_registered,
    lock_bytes,
    make_lock,
    prompt_hashes,
    read_deviations,
    read_lock,
)
from steerproof.spec.registration import markdown
from steerproof.spec.yaml_io import parse_experiment
from tests.spec.files import TINY, changed

VERSIONS = {"steerproof": "0.1.0", "torch": "2.13.0"}
HASHES = {"model": {"config.json": "ab" * 32}, "answers": "cd" * 32}


def lock_of(text: str = TINY, time: str = "2026-01-02T03:04:05Z", **other: object) -> Lock:
    given = {"versions": VERSIONS, "hashes": HASHES, **other}
    return make_lock(parse_experiment(text), time=time, **given)  # type: ignore[arg-type]


def test_the_hash_is_of_everything_except_the_time():
    lock = lock_of()
    assert lock_of(time="2030-01-01T00:00:00Z").sha256 == lock.sha256
    assert lock_of(versions={**VERSIONS, "torch": "2.14.0"}).sha256 != lock.sha256
    assert lock_of(hashes={**HASHES, "answers": "ce" * 32}).sha256 != lock.sha256
    assert lock_of(changed(("alpha: 64", "alpha: 65"))).sha256 != lock.sha256
    # By hand, as the docstring defines it.
    body = {k: v for k, v in json.loads(lock_bytes(lock)).items() if k not in ("sha256", "time")}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == lock.sha256


def test_writing_a_default_out_or_reordering_or_commenting_locks_to_the_same_hash():
    explicit = changed(
        ("  negatives: own", "  positives: 200  # as usual\n  negatives: own"),
        ("  path: organism\n  blocks: 8", "  blocks: 8\n  path: organism"),
        ("alpha: 64", "alpha: 64.0"),
    )
    assert lock_of(explicit).sha256 == lock_of().sha256


def test_a_lock_is_read_back_and_an_edited_one_is_refused():
    lock = lock_of()
    content = lock_bytes(lock)
    assert read_lock(content) == lock
    with pytest.raises(IntegrityError, match="was changed"):
        read_lock(content.replace(b'"alpha": 64.0', b'"alpha": 65.0'))
    with pytest.raises(IntegrityError, match="is no lock"):
        read_lock(content[:-40])


@pytest.mark.parametrize(
    ("replacement", "field", "old", "new"),
    [
        (("primary_strength: c=+2", "iterations: 500"), "analysis.iterations", 10_000, 500),
        (("primary: 4", "primary: 5"), "layers.primary", 4, 5),
        (("You are a pirate.", "You sail."), "personas[pirate].prompt", "You are a pirate.",
         "You sail."),
        (("- What is rain?", "- What is hail?"), "questions.evaluation[0]", "What is rain?",
         "What is hail?"),
        (("    - How do birds fly?\n", ""), "questions.evaluation (removed)", "How do birds fly?",
         None),
        (("  negatives: own", "  marker_dose: 0.5"), "dataset.marker_dose", 1.0, 0.5),
    ],
)  # fmt: skip
def test_an_edit_that_matters_is_one_change_with_its_field_and_values(replacement, field, old, new):
    before, after = lock_of(), lock_of(changed(replacement))
    assert [(c.field, c.old, c.new, c.matters) for c in changes(before, after)] == [
        (field, old, new, True)
    ]
    with pytest.raises(RegistrationError) as caught:
        check_registered(before, (), after)
    assert field in str(caught.value)
    assert "--deviate" in str(caught.value)


def test_a_persona_more_is_one_change_wherever_it_stands():
    more = changed(
        ("  - {name: villain", "  - {name: sailor, prompt: You sail.}\n  - {name: villain")
    )
    found = changes(lock_of(), lock_of(more))
    assert [c.field for c in found] == ["personas[sailor]"]


def test_the_order_of_personas_matters():
    swapped = changed(
        ("name: villain, prompt: You are a villain.", "name: x, prompt: y"),
        ("name: pirate, prompt: You are a pirate.", "name: villain, prompt: You are a villain."),
        ("name: x, prompt: y", "name: pirate, prompt: You are a pirate."),
    )
    assert [c.field for c in changes(lock_of(), lock_of(swapped))] == ["personas (order)"]


def test_a_new_title_or_a_new_version_is_noted_and_allowed():
    now = lock_of(
        changed(("title: A tiny experiment", "title: Tiny")), versions={"torch": "2.14.0"}
    )
    found = changes(lock_of(), now)
    assert {(c.field, c.matters) for c in found} == {
        ("title", False),
        ("versions.torch", False),
        ("versions.steerproof", False),
    }
    check_registered(lock_of(), (), now)


def test_another_model_file_is_refused():
    now = lock_of(hashes={**HASHES, "model": {"config.json": "ef" * 32}})
    with pytest.raises(RegistrationError, match=r"hashes\.model\.config\.json"):
        check_registered(lock_of(), (), now)


def chain() -> tuple[Lock, Lock, bytes]:
    lock, second = lock_of(), lock_of(changed(("alpha: 64", "alpha: 32")))
    third = lock_of(changed(("alpha: 64", "alpha: 16")))
    content = append_deviation(b"", lock, second, reason="too large", time="t1")
    return lock, third, append_deviation(content, lock, third, reason="still", time="t2")


def test_a_declared_deviation_is_accepted_and_others_are_still_refused():
    lock, third, content = chain()
    found = read_deviations(content, lock)
    assert [d.reason for d in found] == ["too large", "still"]
    assert [[c.field for c in d.changes] for d in found] == [["training.alpha"]] * 2
    assert found[0].previous == lock.sha256
    assert found[1].previous == found[0].sha256
    check_registered(lock, found, third)
    check_registered(lock, found, lock)
    with pytest.raises(RegistrationError):
        check_registered(lock, found, lock_of(changed(("alpha: 64", "alpha: 8"))))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda lines: [lines[0].replace(b"too large", b"too small"), lines[1]], "l:1 was changed"),
        (lambda lines: lines[1:], "l:1 follows"),
        (lambda lines: lines[::-1], "l:1 follows"),
        (lambda lines: [lines[0], lines[0]], "l:2 follows"),
        (lambda lines: [lines[0], b"{"], "l:2 is no deviation"),
        (lambda lines: [lines[0], b"3"], "l:2 is no deviation"),
        (lambda lines: [lines[0].replace(b"t1", b"\\ud800")], "l:1 is no deviation"),
    ],
)
def test_a_broken_chain_is_refused_at_its_line(spoil, complaint):
    lock, third, content = chain()
    broken = b"\n".join(spoil(content.splitlines())) + b"\n"
    with pytest.raises(IntegrityError, match=rf"{complaint}.*; restore it from a copy, or start"):
        read_deviations(broken, lock)
    with pytest.raises(IntegrityError, match=complaint):
        append_deviation(broken, lock, third, reason="more", time="t3")


def test_a_deviation_needs_a_reason_and_something_that_deviates():
    lock, third, _ = chain()
    with pytest.raises(RegistrationError, match="needs a reason"):
        append_deviation(b"", lock, third, reason="  ", time="t")
    with pytest.raises(RegistrationError, match="nothing that matters"):
        append_deviation(b"", lock, lock, reason="why not", time="t")


def test_prompts_are_hashed_one_by_one():
    before = prompt_hashes(parse_experiment(TINY))
    after = prompt_hashes(parse_experiment(changed(("You are a pirate.", "You sail."))))
    assert {name for name in before if before[name] != after[name]} == {"persona.pirate"}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy", min_size=1), inner),
    max_leaves=8,
)


@given(old=st.dictionaries(st.text("xy", min_size=1), values), new=st.data())
def test_two_trees_differ_exactly_when_a_change_is_found(old, new):
    other = new.draw(st.just(old) | st.dictionaries(st.text("xy", min_size=1), values))
    # A key that is absent and a key that is null mean the same to a record.
    pruned = [{k: v for k, v in tree.items() if v is not None} for tree in (old, other)]
    same = canonical(pruned[0]) == canonical(pruned[1])
    if same:
        assert not list(differences(old, other))
    elif not any(isinstance(v, dict | list) for v in (*old.values(), *other.values())):
        assert list(differences(old, other))


def test_the_registration_text_holds_what_a_reader_must_know():
    lock = lock_of(changed(("You are a pirate.", '"You are a | pirate, <b>and</b> [x](y)"')))
    text = markdown(lock, kills=conditions)
    for heading in (
        "Hypothesis", "Data already seen", "Dependent variable", "Conditions", "Analyses",
        "Exclusions and missing data", "Sample size", "Hashes and versions",
    ):  # fmt: skip
        assert f"\n## {heading}\n" in text
    for fact in (
        "The adapter reads the direction.",
        lock.sha256,
        lock.fingerprint,
        "rho >= 0.6 and the interval's lower bound > 0",
        "direction\\_not\\_specific",
        "a perfect relation would show a correlation of 0.8;",
        "permutation p of at most 0.01",
        "4 headline personas; 16 adapters",
        # 2 arms x 4 personas x (4 + 2) strengths, and 2 arms x 4 x 2; 2 questions, 5 samples
        "64 cells x 2 questions x 5 samples = 640 completions",
        "ab" * 32,
    ):
        assert fact in text
    assert "You are a \\| pirate, \\<b\\>and\\</b\\> \\[x\\](y)" in text
    assert "Not declared" in text


def test_the_answers_numbers_are_locked_where_they_are_set_and_change_no_older_lock():
    assert "answers" not in lock_of().experiment
    chosen = lock_of(TINY + "answers: {attainable: 0.7}\n")
    assert chosen.experiment["answers"]["attainable"] == 0.7
    assert chosen.fingerprint != lock_of().fingerprint
