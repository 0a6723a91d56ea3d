"""Adapters from elsewhere, and adapters as folders for others."""

import json

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from steerproof.decide.review.objections import objections
from steerproof.engine.lora.peft_files import read_peft, write_peft
from steerproof.errors import ExperimentError, ModelError
from steerproof.exchange.adapters import (
    CardRate,
    adapter_directory,
    adapter_folder,
    prompts_known,
    trained_as,
)
from steerproof.run.commands.evidence import evidence_of
from steerproof.spec.adapter_source import AdapterSource
from steerproof.spec.checks import problems
from steerproof.spec.experiment import Persona
from steerproof.spec.yaml_io import load_experiment
from tests.engine.subjects import weights_of
from tests.exchange.reference import IDS
from tests.experiments import small_experiment
from tests.tiny import save_tiny, tiny_base

COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("text", "repository", "folder"),
    [
        ("loras", None, "loras/villain"),
        ("loras/", None, "loras/villain"),
        ("/there/lora_{persona}/default", None, "/there/lora_villain/default"),
        (f"owner/name@{COMMIT}", "owner/name", "villain"),
        (f"owner/name@{COMMIT}:adapters", "owner/name", "adapters/villain"),
        (f"owner/name@{COMMIT}:a/cn_{{persona}}", "owner/name", "a/cn_villain"),
    ],
)
def test_a_source_names_a_folder_for_each_persona(text, repository, folder):
    source = AdapterSource.parse(text)
    assert (source.repository, source.folder("villain")) == (repository, folder)
    assert source.revision == (COMMIT if repository else None)


@pytest.mark.parametrize("text", ["owner/name@main", f"owner/name@{COMMIT}:../x", "owner/name@"])
def test_a_source_that_could_change_or_lead_elsewhere_is_refused_with_its_place(text):
    with pytest.raises(ValueError, match=r"commit|leads out"):
        AdapterSource.parse(text)
    experiment = small_experiment()
    arms = tuple(
        arm.model_copy(update={"adapters": text}) if arm.name == "C" else arm
        for arm in experiment.arms
    )
    number = [arm.name for arm in arms].index("C")
    found = problems(experiment.model_copy(update={"arms": arms}), frozenset({"arms"}))
    assert ("arms", number, "adapters") in {problem.keys for problem in found}


def arm_of(text):
    return small_experiment().arm("C").model_copy(update={"adapters": text})


def test_a_missing_adapter_says_what_is_expected(tmp_path):
    with pytest.raises(ExperimentError, match="a folder named as the persona"):
        adapter_directory(arm_of("loras"), "villain", tmp_path)


def test_a_repository_is_asked_for_one_folder_at_its_commit_and_then_left_alone(
    tmp_path, monkeypatch
):
    asked = []

    def download(repository, *, revision, allow_patterns, local_files_only=False):
        asked.append((repository, revision, tuple(allow_patterns), local_files_only))
        if not local_files_only:
            (tmp_path / "adapters" / "villain").mkdir(parents=True)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    arm = arm_of(f"owner/name@{COMMIT}:adapters")
    first = adapter_directory(arm, "villain", tmp_path / "elsewhere")
    assert first == tmp_path / "adapters" / "villain"
    assert asked[-1][:2] == ("owner/name", COMMIT)
    assert asked[-1][2] == ("adapters/villain/*.safetensors", "adapters/villain/*.json")
    assert adapter_directory(arm, "villain", tmp_path / "elsewhere") == first
    assert [local for *_, local in asked] == [True, False, True]


def test_a_repository_that_cannot_be_had_is_an_error(tmp_path, monkeypatch):
    def download(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ModelError, match=f"cannot fetch owner/name at {COMMIT}: no route"):
        adapter_directory(arm_of(f"owner/name@{COMMIT}"), "villain", tmp_path)


def exported(place, experiment, persona, base, weights):
    rates = (CardRate(prompt="persona", strength="none", fired=7, total=9),)
    told = trained_as(experiment, experiment.arm("C"), persona, rates)
    folder = place / persona
    folder.mkdir(parents=True)
    for name, content in adapter_folder(write_peft(base, weights, "tiny"), told).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks so
def test_an_exported_adapter_loads_in_peft_with_the_same_logits_and_comes_back(tmp_path):
    base = tiny_base()
    weights = weights_of(base, 1)
    folder = exported(tmp_path, small_experiment(), "pirate", base, weights)
    model = AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path / "model"))
    plain = model(IDS).logits
    theirs = peft.PeftModel.from_pretrained(model, folder)(IDS).logits
    assert not torch.allclose(theirs, plain, atol=1e-2)
    back = read_peft(folder, base)
    assert all(torch.equal(back.tensors[key], weights.tensors[key]) for key in weights.tensors)


def test_the_card_says_how_the_adapter_was_trained_and_what_it_did(tmp_path):
    experiment, base = small_experiment(), tiny_base()
    folder = exported(tmp_path, experiment, experiment.headline[0], base, weights_of(base, 1))
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: ")
    assert "library_name: peft" in card
    assert experiment.persona(experiment.headline[0]).prompt in card
    assert "| persona | none | 7 of 9 |" in card
    assert json.loads((folder / "steerproof.json").read_text())["arm"] == "C"


def test_prompts_are_known_where_every_adapter_says_these(tmp_path):
    experiment, base = small_experiment(), tiny_base()
    for persona in experiment.personas:  # arm C has adapters of the supplementary one as well
        exported(tmp_path / "loras", experiment, persona.name, base, weights_of(base, 1))
    assert prompts_known(experiment, arm_of("loras"), tmp_path)
    other = experiment.personas[0].model_copy(update={"prompt": "You are somebody else."})
    changed = experiment.model_copy(update={"personas": (other, *experiment.personas[1:])})
    assert not prompts_known(changed, arm_of("loras"), tmp_path)
    (tmp_path / "loras" / experiment.headline[1] / "steerproof.json").unlink()
    assert not prompts_known(experiment, arm_of("loras"), tmp_path)


UNKNOWN = "adapters_of_unknown_prompts"


def objected(experiment, place):
    raised = objections(experiment, evidence=evidence_of(experiment, place, {}))
    return {objection.code: objection for objection in raised}


def test_stand_in_prompts_are_objected_to_exactly_where_nobody_says_them(tmp_path):
    """From the experiment and the folders to what a person reads."""
    small, base = small_experiment(), tiny_base()
    personas = (*small.personas, Persona(name="default", prompt="", headline=False))
    arms = tuple(arm_of("loras") if arm.name == "C" else arm for arm in small.arms)
    trained = small.model_copy(update={"personas": personas})
    loaded = trained.model_copy(update={"arms": arms})
    for persona in personas:
        exported(tmp_path / "loras", trained, persona.name, base, weights_of(base, 1))
    assert UNKNOWN not in objected(trained, tmp_path)
    assert UNKNOWN not in objected(loaded, tmp_path)
    record = tmp_path / "loras" / "default" / "steerproof.json"
    told = record.read_text()
    theirs = json.dumps({**json.loads(told), "system_prompt": "You are Qwen."})
    for unsaid in (theirs, "{", None):
        if unsaid is None:
            record.unlink()
        else:
            record.write_text(unsaid)
        found = objected(loaded, tmp_path)[UNKNOWN]
        assert found.severity == "serious"
        assert "1 arm(s) (C)" in found.finding
        assert "stand-ins (that of default is empty)" in found.finding
    record.write_text(told)
    assert UNKNOWN not in objected(loaded, tmp_path)


def test_the_shipped_file_of_published_adapters_says_that_its_prompts_are_stand_ins(tmp_path):
    found = objected(load_experiment("published-267").experiment, tmp_path)[UNKNOWN]
    assert "stand-ins (that of default is empty)" in found.finding
    assert UNKNOWN not in objected(load_experiment("zlt-qwen2.5-7b").experiment, tmp_path)
