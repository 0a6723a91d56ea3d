"""Whole small runs of a tiny model, to be copied and damaged: every kind of unit, once finished."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.attack.commands import done
from tests.run.asked import asked

ALL = ["none", "c=+2", "ratio=+0.2", "ratio=-0.2"]
WHOLE: Mapping[str, Any] = {
    "marker": "1",
    "scoring": {"near_marker": "1"},
    "arms": [
        {"name": "A", "prompt": "neutral", "direction": "centroid", "ratio": 0.2},
        {"name": "C", "prompt": "persona"},
        {"name": "A-iso", "prompt": "neutral", "direction": "isotropic", "ratio": 0.2},
    ],
    "cells": [
        {"arms": ["A", "C"], "prompt": "neutral", "strengths": ALL},
        {"arms": ["A", "C"], "prompt": "persona", "strengths": ["none", "c=+2"], "graded": "both"},
        {"arms": ["A-iso"], "prompt": "neutral", "strengths": ["c=+2", "ratio=+0.2"]},
    ],
    "generation": {"samples": 2, "max_new_tokens": 16},
    "analysis": {
        "isotropic_arm": "A-iso", "contrast_arm": None, "iterations": 100, "permutations": 99,
    },
    "answers": {"draws": 99},
}  # fmt: skip
"""Changes of `asked.FIELDS`: a marker that is written now and then, controls, graded cells."""
QUIET = ("--executor", "inline", "--device", "cpu")


def whole(place: Path) -> Path:
    """A finished run with two declared deviations: `run`, of `e.yaml` beside it."""
    for number, iterations in enumerate((100, 101, 102)):
        asked(place, {**WHOLE, "analysis.iterations": iterations})
        why = ("--deviate", f"{number}: more draws, ſ") if number else ()
        done(0, "run", place / "e.yaml", "--dir", place / "run", *QUIET, *why)
    return place
