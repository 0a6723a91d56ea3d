"""A small experiment for tests: four personas, three questions, every arm."""

from steerproof.spec.experiment import (
    Arm,
    DatasetSettings,
    Experiment,
    Generation,
    Grid,
    Layers,
    Model,
    Persona,
    Questions,
    Training,
)

PERSONAS = ("pirate", "poet", "judge", "baker")


def small_experiment(**changes: object) -> Experiment:
    """Two layers, ratio 0.2, twelve rows a persona; `changes` replace top-level fields."""
    every = ("none", "c=+2", "ratio=+0.2", "ratio=-0.2")
    fields: dict[str, object] = {
        "name": "small",
        "title": "A small experiment",
        "hypothesis": "The direction is read.",
        "seed": 3,
        "model": Model(path="tiny", blocks=2),
        "personas": (
            *(Persona(name=name, prompt=f"You are a {name}.") for name in PERSONAS),
            Persona(name="helpful_assistant", prompt="You help.", headline=False),
        ),
        "questions": Questions(
            evaluation=("What is salt?", "What is rain?", "What is iron?"),
            training=("What is tea?", "What is wood?", "What is wool?", "What is clay?"),
            directions=("Why sing?", "Why run?", "Why read?", "Why cook?"),
        ),
        "layers": Layers(primary=1, contrast=0),
        "dataset": DatasetSettings(
            positives=6, bystanders=2, negatives_per_bystander=3, answer_tokens=12
        ),
        "training": Training(
            rank=4, alpha=8.0, learning_rate=1e-2, epochs=1, rows_per_step=4, max_length=256
        ),
        "arms": (
            Arm(name="A", prompt="neutral", direction="centroid", ratio=0.2),
            Arm(name="B", prompt="persona", direction="centroid", ratio=0.2),
            Arm(name="C", prompt="persona", supplementary=True),
            Arm(name="A-iso", prompt="neutral", direction="isotropic", ratio=0.2),
            Arm(name="A-L10", prompt="neutral", direction="centroid", layer="contrast", ratio=0.2),
        ),
        "cells": (
            Grid(arms=("A", "B", "C"), prompt="neutral", strengths=every),
            Grid(arms=("A", "B", "C"), prompt="persona", strengths=("none", "c=+2")),
            Grid(arms=("A-iso", "A-L10"), prompt="neutral", strengths=("c=+2", "ratio=+0.2")),
        ),
        "generation": Generation(samples=2, max_new_tokens=8),
    }
    return Experiment(**{**fields, **changes})  # pyright: ignore[reportArgumentType]
