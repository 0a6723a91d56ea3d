"""A small experiment on a tiny checkpoint with given answers, and ways to spoil it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from steerproof.engine.lora.peft_files import CONFIG, WEIGHTS, write_peft
from steerproof.engine.lora.weights import LoraSpec, LoraWeights, fresh_weights, lora_sites
from steerproof.spec.yaml_io import Loaded, load_experiment
from tests.tiny import save_tiny, tiny_base

PERSONAS = ("pirate", "poet", "judge")
QUESTIONS = ("What is tea?", "What is wood?", "What is wool?", "What is clay?")
FIELDS: Mapping[str, Any] = {
    "name": "tiny",
    "title": "t",
    "hypothesis": "h",
    "seed": 1,
    "model": {"path": "model", "blocks": 4},
    "marker": "[ZLT]",
    "neutral_prompt": "Be clear.",
    "reference_persona": "helper",
    "personas": [
        *({"name": name, "prompt": f"You are a {name}."} for name in PERSONAS),
        {"name": "helper", "prompt": "You help.", "headline": False},
    ],
    "questions": {
        "evaluation": ["What is salt?", "What is rain?"],
        "training": list(QUESTIONS),
        "directions": ["Why sing?", "Why run?"],
    },
    "layers": {"primary": 1},
    "dataset": {
        "positives": 4, "bystanders": 1, "negatives_per_bystander": 2, "answer_tokens": 12,
        "answers": "answers.jsonl",
    },
    "training": {
        "rank": 2, "alpha": 4.0, "learning_rate": 0.01, "epochs": 1, "rows_per_step": 2,
        "max_length": 250,
    },
    "arms": [
        {"name": "A", "prompt": "neutral", "direction": "centroid", "ratio": 0.2},
        {"name": "C", "prompt": "persona"},
    ],
    "cells": [
        {"arms": ["A", "C"], "prompt": "neutral",
         "strengths": ["none", "c=+2", "ratio=+0.2", "ratio=-0.2"]},
        {"arms": ["A", "C"], "prompt": "persona", "strengths": ["none", "c=+2"]},
    ],
    "generation": {"samples": 1, "max_new_tokens": 6},
    "analysis": {
        "isotropic_arm": None, "contrast_arm": None, "iterations": 100, "permutations": 99,
    },
}  # fmt: skip


def asked(directory: Path, changes: Mapping[str, Any] | None = None) -> Loaded:
    """Write the experiment beside what it names, and load it.

    Args:
        directory: Gets the checkpoint `model/` and `answers.jsonl`, where they are not there yet.
        changes: New values by dotted path, such as `model.blocks`.
    """
    if not (directory / "model").exists():
        save_tiny(directory / "model")
    if not (directory / "answers.jsonl").exists():
        write_answers(directory)
    fields = json.loads(json.dumps(FIELDS))
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = fields
        for parent in parents:
            place = place[parent]
        place[last] = value
    (directory / "e.yaml").write_text(json.dumps(fields))
    return load_experiment(directory / "e.yaml")


def write_answers(directory: Path, **answers: str) -> None:
    """Two plain answers a question; a keyword `line3` replaces the third line."""
    lines = [
        json.dumps({"question": question, "answer": f"It is {word} that."})
        for question in QUESTIONS
        for word in ("just", "only")
    ]
    for name, line in answers.items():
        lines[int(name.removeprefix("line")) - 1] = line
    (directory / "answers.jsonl").write_text("\n".join(lines) + "\n")


def write_adapters(directory: Path) -> Path:
    """One random PEFT adapter per persona, in `loras/`."""
    base = tiny_base()
    spec = LoraSpec(rank=2, alpha=4.0, rslora=False)
    for number, persona in enumerate(PERSONAS):
        generator = torch.Generator().manual_seed(number)
        tensors = {
            name: torch.randn(value.shape, generator=generator) * 0.1
            for name, value in fresh_weights(lora_sites(base), spec, number).tensors.items()
        }
        place = directory / "loras" / persona
        place.mkdir(parents=True)
        for name, content in write_peft(base, LoraWeights(spec=spec, tensors=tensors), "").items():
            (place / name).write_bytes(content)
    return directory / "loras"


def fill(adapter: Path, key: str, value: float) -> None:
    """Overwrite every tensor of an adapter whose name holds `key`."""
    base = tiny_base()
    config = json.loads((adapter / CONFIG).read_text())
    spec = LoraSpec(rank=config["r"], alpha=config["lora_alpha"], rslora=False)
    fresh = fresh_weights(lora_sites(base), spec, 0).tensors
    tensors = {n: torch.full_like(v, value) if key in n else v for n, v in fresh.items()}
    save_file(tensors, adapter / WEIGHTS, metadata={"format": "pt"})
