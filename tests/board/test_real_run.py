"""The board with the real command line and a real model, from the proposal to a comment."""

import json
import re

import pytest

from steerproof.board import comments, entries, users
from steerproof.board.server import COMMAND
from steerproof.spec.experiment import Arm, DatasetSettings, Generation, Grid, Layers, Model
from steerproof.spec.judging import AnalysisSettings
from tests.board.conftest import PASSWORD, Served
from tests.board.test_browser import Watched
from tests.board.test_proposals import PAGE
from tests.experiments import small_experiment

WAIT = 240_000


def experiment_text() -> str:
    """Two arms and four personas on the organism; JSON is YAML."""
    experiment = small_experiment(
        model=Model(path="organism", blocks=6),
        layers=Layers(primary=3, contrast=1),
        arms=(
            Arm(name="A", prompt="neutral", direction="centroid", ratio=0.2),
            Arm(name="C", prompt="persona"),
        ),
        cells=(
            Grid(arms=("A", "C"), prompt="neutral", strengths=("none", "c=+2")),
            Grid(arms=("A", "C"), prompt="persona", strengths=("none", "c=+2")),
        ),
        dataset=DatasetSettings(
            positives=8, bystanders=2, negatives_per_bystander=4, answer_tokens=48
        ),
        generation=Generation(samples=1, max_new_tokens=24),
        analysis=AnalysisSettings(
            isotropic_arm=None, contrast_arm=None, co_primary_strength=None,
            negative_strength=None, iterations=500,
        ),
    )  # fmt: skip
    return json.dumps(experiment.model_dump(mode="json"), indent=1)


@pytest.fixture
def real(tmp_path):
    """A board that runs `steerproof` itself, with the tracker page proposed."""
    (tmp_path / "runs").mkdir()
    served = Served(runs=tmp_path / "runs", directory=tmp_path / "board", command=COMMAND)
    (tmp_path / "small.yaml").write_text(experiment_text())
    (tmp_path / "proposal.txt").write_text(PAGE)
    entries.propose(tmp_path / "proposal.txt", str(tmp_path / "small.yaml"), served.directory)
    users.add_user(served.directory, "ada", PASSWORD)
    served.start()
    yield served
    served.stop()


@pytest.mark.timeout(600)
def test_propose_plan_start_watch_read_and_comment_with_the_real_command(browser, real):
    watched = Watched(browser, real)
    page = watched.page
    page.set_default_timeout(WAIT)
    page.goto("/sign-in")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name="Sign out").wait_for()
    page.goto("/experiments/342")
    page.get_by_role("heading", name="Goal").wait_for()

    page.get_by_role("button", name="Plan", exact=True).click()
    page.get_by_text("a true correlation of 0.8").wait_for()  # an objection with its number
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("#live-status .badge.running").wait_for()
    page.locator("#live-status .badge.judged").wait_for()
    assert page.locator("a.cell").count() == 32
    verdict = page.get_by_label("Verdict")
    verdict.get_by_text(re.compile("SUPPORTED|REFUTED|INCONCLUSIVE")).first.wait_for()

    page.locator("a.cell").first.click()
    texts = page.locator("pre.text").all_inner_texts()
    assert len(texts) == 3
    assert all(re.search("[a-z]{3}", text) for text in texts)
    page.get_by_label(re.compile("Comment as ada")).fill("The model *wrote* this.")
    page.get_by_role("button", name="Comment", exact=True).click()
    page.locator(".comment em", has_text="wrote").wait_for()
    assert sum(comments.counts(real.board.file, 342).values()) == 1
    assert watched.close() == []
