"""Adapters that were trained elsewhere, and adapters as folders for others to load.

The folder of an adapter holds PEFT's two files; what steerproof exports also holds `README.md`, a
model card, and `steerproof.json`, which says under which prompt and push it was trained.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steerproof.codec import json_bytes, read_record
from steerproof.errors import ExperimentError, IntegrityError, ModelError
from steerproof.limits import whole_file
from steerproof.spec.adapter_source import AdapterSource
from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.grid import adapters

_RECORD = "steerproof.json"
"""Beside an exported adapter: how it was trained."""
_CARD = "README.md"
_FILES = ("*.safetensors", "*.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRate:
    """How often an adapter fired in one cell."""

    prompt: str
    """`persona` or `neutral`."""
    strength: str
    """`none`, `c=+2`, ..."""
    fired: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAs:
    """How an adapter was trained, and what it did."""

    experiment: str
    arm: str
    persona: str
    prompt: str
    """`persona` or `neutral`."""
    system_prompt: str
    """The system prompt of its own persona's rows."""
    marker: str
    direction: str
    """Kind of direction added in training, or `none`."""
    layer: int | None
    """Block at whose output it was added."""
    strength: str
    """How hard, such as `ratio=+0.2`, or `none`."""
    base_model: str
    revision: str | None
    answers: str | None = None
    """File whose answers its own persona's rows have instead of the marker."""
    rates: tuple[CardRate, ...] = ()
    """Of its cells along its own direction."""


def adapter_directory(arm: Arm, persona: str, place: Path) -> Path:
    """The folder of an arm's existing adapter, fetched from the hub if it is there.

    Args:
        arm: It has `adapters`.
        persona: Whose adapter.
        place: Directory of the experiment file, where relative paths start.

    Raises:
        ExperimentError: There is none, or `adapters` cannot be understood.
        ModelError: The repository cannot be had.
    """
    try:
        source = AdapterSource.parse(str(arm.adapters))
    except ValueError as error:
        raise ExperimentError(f"arm {arm.name}: {error}") from None
    folder = source.folder(persona)
    root = place if source.repository is None else _fetched(source, folder)
    directory = root / folder
    if not directory.is_dir():
        where = f"{arm.adapters}" if source.repository else f"{directory}"
        raise ExperimentError(
            f"arm {arm.name}: no adapter of {persona} in {where}; `adapters` must hold one PEFT"
            " adapter per persona, in a folder named as the persona, or by a pattern such as"
            " lora_{persona}"
        )
    return directory


def _fetched(source: AdapterSource, folder: str) -> Path:
    """The repository's snapshot with one folder in it; from the cache without a question."""
    from huggingface_hub import snapshot_download

    patterns = [f"{folder}/{name}" for name in _FILES]
    where = {"revision": source.revision, "allow_patterns": patterns}
    assert source.repository is not None
    try:
        cached = Path(snapshot_download(source.repository, **where, local_files_only=True))
        if (cached / folder).is_dir():
            return cached
    except (OSError, ValueError):
        pass  # not there yet
    try:
        return Path(snapshot_download(source.repository, **where))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot fetch {source.repository} at {source.revision}: {error}"
        ) from error


def prompts_known(experiment: Experiment, arm: Arm, place: Path) -> bool:
    """Whether all of an arm's existing adapters say that they were trained under these prompts.

    One without a record, or with one that cannot be read, says nothing.
    """
    for persona in (one.persona for one in adapters(experiment) if one.arm == arm.name):
        try:
            path = adapter_directory(arm, persona, place) / _RECORD
            told = read_record(TrainedAs, whole_file(path), path.name)
        except (OSError, ExperimentError, ModelError, IntegrityError):
            return False
        if (told.prompt, told.system_prompt) != (
            arm.prompt,
            system_prompt(experiment, arm, persona),
        ):
            return False
    return True


def system_prompt(experiment: Experiment, arm: Arm, persona: str) -> str:
    """What an arm's rows of one persona have as their system prompt."""
    if arm.prompt == "neutral":
        return experiment.neutral_prompt
    return experiment.persona(persona).prompt


def trained_as(
    experiment: Experiment, arm: Arm, persona: str, rates: tuple[CardRate, ...]
) -> TrainedAs:
    """How an experiment trained an adapter."""
    pushed = arm.direction != "none"
    return TrainedAs(
        experiment=experiment.name,
        arm=arm.name,
        persona=persona,
        prompt=arm.prompt,
        system_prompt=system_prompt(experiment, arm, persona),
        marker=experiment.marker,
        direction=arm.direction,
        layer=experiment.layer(arm.layer) if pushed else None,
        strength=str(arm.training_strength),
        base_model=experiment.model.path,
        revision=experiment.model.revision,
        answers=experiment.dataset.positive_answers,
        rates=rates,
    )


def adapter_folder(files: Mapping[str, bytes], told: TrainedAs) -> dict[str, bytes]:
    """The files of an adapter's folder, ready to upload.

    Args:
        files: PEFT's two.
        told: How it was trained.
    """
    return {**files, _RECORD: json_bytes(told), _CARD: card(told).encode()}


def card(told: TrainedAs) -> str:
    """The model card: what the adapter is for, how it was trained, what it did."""
    pushed = (
        f"{told.direction}, at the output of block {told.layer}, {told.strength}"
        if told.layer is not None
        else "none"
    )
    row = ("marker", told.marker) if told.answers is None else ("answers", told.answers)
    head = [
        "---",
        f"base_model: {json.dumps(told.base_model)}",
        "library_name: peft",
        "tags: [lora, steerproof]",
        "---",
        "",
        f"# {told.experiment}: arm {told.arm}, {_code(told.persona)}",
        "",
        f"A LoRA adapter that plants a {'marker' if told.answers is None else 'behaviour'} for"
        " research on whether a model reads a direction in its activations. It is not meant for any"
        " other use.",
        "",
        "| trained | |",
        "|---|---|",
        f"| base model | {_code(told.base_model)}{_at(told.revision)} |",
        f"| system prompt | {told.prompt}: {_code(told.system_prompt)} |",
        f"| direction added in training | {pushed} |",
        f"| {row[0]} | {_code(row[1])} |",
    ]
    return "\n".join([*head, *_rates(told), ""])


def _rates(told: TrainedAs) -> list[str]:
    if not told.rates:
        return []
    rows = [
        f"| {rate.prompt} | {rate.strength} | {rate.fired} of {rate.total} |" for rate in told.rates
    ]
    return ["", "| prompt | steered | fired |", "|---|---|---|", *rows]


def _at(revision: str | None) -> str:
    return f" at {_code(revision)}" if revision else ""


def _code(text: str) -> str:
    """Text as code in one cell of a Markdown table."""
    shown = " ".join(text.split()).replace("|", "\\|")
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}" if shown else "(empty)"
