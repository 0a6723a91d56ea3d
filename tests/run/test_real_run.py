"""Real stages, really killed: the command line on a tiny random model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steerproof.codec import plain
from steerproof.errors import IntegrityError
from steerproof.run.commands.session import new_session, run_experiment
from steerproof.run.commands.verify import verify
from steerproof.run.driver.executors import InlineExecutor
from steerproof.run.graph.units import KINDS
from steerproof.run.store import doing
from steerproof.run.store.doing import Doing
from steerproof.spec.experiment import Grid
from steerproof.spec.yaml_io import load_experiment
from tests.run.test_session import experiment_of, quiet
from tests.run.tiny import contents, leftovers
from tests.tiny import save_tiny

EVERY = ("none", "c=+2", "ratio=+0.2", "ratio=-0.2")


@dataclass(frozen=True, kw_only=True)
class Project:
    """A directory with an experiment file, its answers and its model."""

    file: Path

    def run(self, name: str) -> tuple[Any, dict[str, Any] | None]:
        session = new_session(load_experiment(self.file), self.file.parent / name)
        return run_experiment(session, InlineExecutor(), listen=quiet)

    def killed(self, name: str, fault: str) -> int:
        """The exit code of the command when it is told to die at a fault point."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "steerproof", "run", str(self.file)),
                *("--dir", str(self.file.parent / name), "--device", "cpu", "--executor", "inline"),
            ],
            check=False,
            capture_output=True,
            env={**os.environ, "STEERPROOF_FAULT": fault},
        ).returncode


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    directory = tmp_path_factory.mktemp("project")
    whole = experiment_of(save_tiny(directory / "model"))
    # Two arms and three personas are enough to be killed between, and take a third of the time.
    experiment = whole.model_copy(
        update={
            "personas": whole.personas[1:],
            "arms": tuple(arm for arm in whole.arms if arm.name in "AC"),
            "cells": (
                Grid(arms=("A", "C"), prompt="neutral", strengths=EVERY),
                Grid(arms=("C",), prompt="persona", strengths=("none",)),
            ),
            "analysis": whole.analysis.model_copy(
                update={"isotropic_arm": None, "contrast_arm": None}
            ),
        }
    )
    answers = [
        json.dumps({"question": question, "answer": "It is so."}) + "\n"
        for question in experiment.questions.training
    ]
    (directory / "answers.jsonl").write_text("".join(answers))
    file = directory / "small.yaml"
    file.write_text(experiment.model_dump_json())  # JSON is YAML
    return Project(file=file)


@pytest.fixture(scope="module")
def told(project: Project) -> list[Doing]:
    """What the workers said of a run that nothing interrupted."""
    said: list[Doing] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doing, "SECONDS", 0.0)
        patch.setattr("steerproof.study.measure.TOLD_SECONDS", 0.0)
        patch.setattr(doing, "_replace", lambda _place, what: said.append(what))
        project.run("straight")
    return said


@pytest.fixture(scope="module")
def straight(project: Project, told: list[Doing]) -> Path:
    """A run that nothing interrupted."""
    assert told
    return project.file.parent / "straight"


def results(run: Path) -> dict[str, bytes]:
    """What a reader of the run takes from it; the report also tells the time that it took."""
    names = ("rates.csv", "verdict.json", "estimates.json", "calibration.json")
    return {name: (run / "results" / name).read_bytes() for name in names}


MEASURED = ("training.json", "cell.json", "adapter_model.safetensors")
"""Files with times, or with numbers that are rounded differently in another batch."""


def exact(run: Path) -> dict[str, str]:
    """Hashes of the files that are the same bytes however the units were batched."""
    return {name: sha for name, sha in contents(run).items() if not name.endswith(MEASURED)}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name} {name}": tensor
        for path in sorted((run / "units" / "adapter").glob("*/adapter_model.safetensors"))
        for name, tensor in load_file(path).items()
    }


def test_workers_say_how_far_they_are_how_fast_and_what_the_loss_is(
    straight: Path, told: list[Doing]
) -> None:
    by_kind = {kind: [one for one in told if one.kind == kind] for kind in KINDS}
    assert {one.phase for one in by_kind["cell"]} == {
        "starting", "loading the model", "reading what earlier units made",
        "checking adapters and pushes", "",
    }  # fmt: skip
    training = [one for one in by_kind["adapter"] if one.loss is not None]
    assert [one.done for one in training] == sorted(one.done for one in training)
    assert training[-1].done == training[-1].total == len(training)
    assert all(one.what == "steps" and one.per_second for one in training)
    records = (straight / "units" / "adapter").glob("*/training.json")
    losses = [json.loads(record.read_text())["losses"][-1] for record in records]
    assert training[-1].loss == pytest.approx(fmean(losses))
    drawing = [one for one in by_kind["cell"] if one.what]
    assert {one.what for one in drawing} == {"completions"}
    assert any(one.tokens_per_second for one in drawing)
    assert {one.what for one in by_kind["directions"]} >= {"prompts"}


def test_rates_verdict_and_files_of_a_run_killed_twice_equal_those_of_an_uninterrupted_one(
    project: Project, straight: Path
) -> None:
    run = project.file.parent / "killed"
    assert project.killed("killed", "manifest.before/adapter:KILL:3") == -9
    assert project.killed("killed", "rename.after/cell:KILL:5") == -9
    kept = contents(run)
    summary, verdict = project.run("killed")
    assert summary.progress.reused == len({Path(name).parent for name in kept}) > 5
    assert kept.items() <= contents(run).items()
    assert exact(run) == exact(straight)
    mine, theirs = weights(run), weights(straight)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        # An adapter that was trained beside others is rounded otherwise, and no more than that.
        assert (tensor - theirs[name]).abs().max() <= 1e-4 * theirs[name].abs().max(), name
    assert {**results(run), "verdict.json": b""} == {**results(straight), "verdict.json": b""}
    assert verdict is not None
    there = json.loads((straight / "results" / "verdict.json").read_bytes())
    locks = {"lock": ""}  # each directory's registration has its own time
    assert {**plain(verdict), **locks} == {**there, **locks}
    assert leftovers(run) == []
    assert verify(run) == []


def test_a_comment_in_the_experiment_file_redoes_nothing_and_is_kept(
    project: Project, straight: Path
) -> None:
    before = results(straight)
    project.file.write_text("# a comment\n" + project.file.read_text())
    summary, _ = project.run("straight")
    assert summary.progress.done == 0
    assert (straight / "experiment.yaml").read_text().startswith("# a comment\n")
    assert results(straight) == before


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (truncate, flip, empty, Path.unlink)


def published(run: Path) -> list[Path]:
    files = sorted(path for path in (run / "results").rglob("*") if path.is_file())
    return [path for path in files if path.name != "manifest.json"]


def test_every_damaged_result_is_named(project: Project, straight: Path) -> None:
    paths = published(straight)
    for damage in DAMAGES:
        whole = {path: path.read_bytes() for path in paths}
        for path in paths:
            damage(path)
        assert {mismatch.path for mismatch in verify(straight)} == set(paths), damage
        for path, data in whole.items():
            path.write_bytes(data)
    print(f"results: {len(DAMAGES) * len(paths)} damaged files")  # noqa: T201
    assert verify(straight) == []


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink])
def test_damaged_results_are_published_again_without_any_work(
    damage: Callable[[Path], None], project: Project, straight: Path
) -> None:
    before = results(straight)
    for path in (*published(straight), straight / "results" / "manifest.json"):
        damage(path)
    summary, _ = project.run("straight")
    assert summary.progress.done == 0
    assert results(straight) == before
    assert verify(straight) == []


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_registration_is_never_replaced(
    damage: Callable[[Path], None], project: Project, straight: Path
) -> None:
    lock = straight / "experiment.lock.json"
    whole = lock.read_bytes()
    damage(lock)
    broken = lock.read_bytes()
    try:
        with pytest.raises(IntegrityError):
            project.run("straight")
        assert lock.read_bytes() == broken
    finally:
        lock.write_bytes(whole)
