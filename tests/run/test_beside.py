"""A whole run of what is measured besides: matrices, other pushes, seeds, the graded outcome."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from steerproof.decide.analysis.rates import RateTable, of_seed
from steerproof.decide.analysis.slots import SlotRow, margins
from steerproof.run.artefacts import cell as cells_files
from steerproof.run.artefacts import score, slots
from steerproof.run.artefacts.cell import record_of
from steerproof.run.graph.names import (
    COMMON,
    GRADED,
    SCORE,
    adapter_unit,
    cell_unit,
    slots_unit,
)
from steerproof.run.graph.survey import recorded
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.experiment import Arm, Experiment, Grid
from steerproof.spec.grid import AdapterId, cells
from steerproof.study.dataset import Answers
from tests.run.test_session import experiment_of, go, session_in
from tests.tiny import save_tiny

PUSHED = {"prompt": "neutral", "strengths": ("ratio=+0.2",)}
GRIDS = (
    {"arms": ("A", "C"), **PUSHED, "of": "all", "samples": 1, "graded": "common"},
    {"arms": ("A",), **PUSHED, "direction": "isotropic", "draws": 2},
    {"arms": ("A",), **PUSHED, "tokens": "generated", "graded": "common"},
    {"arms": ("A",), **PUSHED, "strengths": ("c=+1",), "operation": "remove", "of": "judge"},
    {"arms": ("base",), **PUSHED, "graded": "both"},
    {"arms": ("A",), "prompt": "persona", "strengths": ("none",), "prompt_of": "all"},
    {"arms": ("C",), "prompt": "persona", "strengths": ("none",), "graded": "own"},
)


def asked(model: Path) -> Experiment:
    small = experiment_of(model)
    small = small.model_copy(update={"personas": small.personas[1:]})
    keep = tuple(arm for arm in small.arms if arm.name in ("A", "C"))
    every = ("none", "c=+2", "ratio=+0.2", "ratio=-0.2")
    plain = (
        {"arms": ("A", "C"), "prompt": "neutral", "strengths": every},
        {"arms": ("C",), "prompt": "persona", "strengths": ("none",)},
    )
    analysis = small.analysis.model_copy(update={"isotropic_arm": None, "contrast_arm": None})
    return small.model_copy(
        update={
            "seeds": (small.seed, 11),
            "arms": (*keep, Arm(name="base", untrained=True)),
            "cells": tuple(map(Grid.model_validate, (*plain, *GRIDS))),
            "analysis": analysis,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, dict, Path]:
    """The experiment, its finished units, and its directory."""
    experiment = asked(save_tiny(tmp_path_factory.mktemp("model")))
    session = session_in(tmp_path_factory.mktemp("run"), experiment)
    with pytest.MonkeyPatch.context() as patch:
        # A random model's answers rarely end by themselves.
        patch.setattr("steerproof.run.stages.answers.common_answers", told)
        go(session)
    return experiment, recorded(session.run), session.run


def told(base: object, experiment: Experiment, count: int, teller: object = None) -> Answers:
    """The common answers, given."""
    texts = ("It is so.",) * count
    return Answers(answers=dict.fromkeys(experiment.questions.evaluation, texts), redrawn=0)


def table(run) -> RateTable:
    return score.rates_of(run[1][SCORE], run[0])


def rows(run) -> tuple[SlotRow, ...]:
    return slots.from_unit(run[1][GRADED])


def test_every_cell_that_is_asked_for_is_in_the_rate_table(run) -> None:
    measured = table(run).cells
    assert set(measured) == set(cells(run[0]))
    header = run[1][SCORE].read(score.RATES).decode().splitlines()[0]
    assert header.endswith("total,direction_of,prompt_of,draw,tokens,operation,seed")


def test_another_training_seed_gives_other_weights_of_the_same_rows(run) -> None:
    units = [run[1][adapter_unit(AdapterId(arm="A", persona="poet", seed=s))] for s in (None, 11)]
    first, second = (load(unit.read("adapter_model.safetensors")) for unit in units)
    assert first.keys() == second.keys()
    assert not all(torch.equal(first[name], second[name]) for name in first)
    of_first = {cell for cell in cells(run[0]) if cell.seed is None}
    assert set(of_seed(table(run), run[0], run[0].seed).cells) == of_first
    assert set(of_seed(table(run), run[0], 11).cells) == of_first


def test_the_base_model_is_measured_without_an_adapter(run) -> None:
    base = [cell for cell in cells(run[0]) if cell.arm == "base"]
    assert len(base) == 3
    for cell in base:
        read = {unit.kind for unit in run[1][cell_unit(cell)].manifest.read}
        assert read == {"directions"}


def pushed(run, **fields: object) -> StoredUnit:
    usual = next(
        cell
        for cell in cells(run[0])
        if cell.arm == "A" and all(getattr(cell, name) == value for name, value in fields.items())
    )
    return run[1][cell_unit(usual)]


def test_fresh_draws_have_the_norm_that_was_asked_for(run) -> None:
    first, second = (record_of(pushed(run, persona="poet", draw=k, seed=None)) for k in (1, 2))
    assert first.ratio == pytest.approx(0.2)
    assert first.achieved_norm == pytest.approx(first.asked_norm, rel=1e-3)
    assert second.canary["mean_log_prob"] != first.canary["mean_log_prob"]


def test_a_removal_has_no_size_of_its_own_and_is_measured(run) -> None:
    removed = record_of(pushed(run, operation="remove", persona="poet", seed=None))
    assert removed.ratio is None
    assert removed.asked_norm is None
    assert removed.achieved_norm is not None
    assert removed.achieved_norm > 0


def test_slots_are_read_on_the_texts_that_were_asked_for(run) -> None:
    experiment = run[0]
    texts = {row.cell: Counter() for row in rows(run)}
    for row in rows(run):
        texts[row.cell][row.text.partition(".")[0]] += 1
    count = len(experiment.questions.evaluation)
    named = {cell.name: cell for cell in cells(experiment)}
    for name, kinds in texts.items():
        cell = named[name]
        bridge = cell.arm == "C" and cell.prompt == "persona"
        expected = {"own": count} if bridge else {"common": count}
        expected |= {"own": count} if cell.arm == "base" else {}
        assert kinds == expected
    matrix = [c for c in named.values() if c.of is not None and c.operation is None]
    assert {cell.name for cell in matrix} <= texts.keys()


def test_margins_are_of_the_cells_that_were_read_and_cut_texts_are_counted(run) -> None:
    experiment = run[0]
    common = margins(rows(run), cells(experiment), 3)
    assert all(len(values) == 3 for values in common.values())
    cut = [
        done.finish == "length"
        for cell in cells(experiment)
        if cell.arm == "base" or (cell.arm == "C" and cell.prompt == "persona")
        for done in cells_files.completions_of(run[1][cell_unit(cell)])
    ]
    assert sum(row.margin is None for row in rows(run)) == sum(cut)


def test_the_table_of_slots_is_published(run) -> None:
    assert (run[2] / "results" / slots.FILE).read_bytes() == run[1][GRADED].read(slots.FILE)


def test_a_slots_unit_reads_the_common_answers_and_the_cells_whose_texts_it_needs(run) -> None:
    read = set(run[1][slots_unit(AdapterId(arm="C", persona="poet"))].manifest.read)
    assert COMMON in read
    assert {unit.name for unit in read if unit.kind == "cell"} == {"C.poet.persona.none"}
