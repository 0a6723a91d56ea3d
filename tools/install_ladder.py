"""Choose the recipe of an experiment by install alone: the smallest rung at which arm C passes G1.

    python tools/install_ladder.py zlt-smollm2 --device cuda --dir runs/ladder --out ladder.json

For each rung only arm C is trained, and measured without any push: under its own persona's prompt,
the prompts of all other headline personas, and the neutral one. No steered cell exists. It stops at
the first rung that passes, and goes on where it was stopped.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from steerproof.run.artefacts import dataset, score
from steerproof.run.driver.executors import InlineExecutor
from steerproof.run.driver.scheduler import execute
from steerproof.run.driver.summary import raise_failures
from steerproof.run.driver.workers import choose_device
from steerproof.run.graph.environment import Place
from steerproof.run.graph.graph import Graph, build_graph
from steerproof.run.graph.names import SCORE, dataset_unit
from steerproof.run.graph.survey import survey
from steerproof.run.graph.units import experiment_graph
from steerproof.run.store.directory import open_run
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import cells
from steerproof.spec.yaml_io import Loaded, load_experiment

RUNGS = ((3e-4, 3), (1e-3, 3), (1e-3, 6), (2e-3, 6), (2e-3, 10), (3e-3, 10))
"""Learning rate and epochs, smallest first; everything else is the experiment's own."""
LEAST_MEAN, LEAST_ONE, LEAST_SHARE = 0.20, 0.10, 0.8
"""G1: lower bound of the mean difference, a persona's difference, share of personas that has it."""
OWN_SAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """How much more one adapter fires under its own persona's prompt than under others."""

    persona: str
    own: float
    trained_negative: float
    """Mean over the bystanders that its rows had."""
    held_out: float
    """Mean over the personas that it never saw."""
    neutral: float
    difference: float
    """Own minus the mean over all other prompts, the neutral one among them."""


def prompt_only(experiment: Experiment, learning_rate: float, epochs: int) -> Experiment:
    """The experiment with arm C alone, its recipe that of a rung, and no push anywhere."""
    arm = experiment.analysis.bridge_arm
    cell = {"arms": [arm], "strengths": ["none"]}
    plain = experiment.model_dump(mode="json", exclude_defaults=True)
    plain["arms"] = [{"name": arm, "prompt": "persona"}]
    plain["cells"] = [
        {**cell, "prompt": "persona", "samples": OWN_SAMPLES},
        {**cell, "prompt": "persona", "prompt_of": "others", "samples": 1},
        {**cell, "prompt": "neutral", "samples": 1},
    ]
    plain["analysis"] = {
        "arm": arm, "bridge_arm": arm, "baseline_arm": None, "isotropic_arm": None,
        "contrast_arm": None, "co_primary_strength": None, "negative_strength": None,
    }  # fmt: skip
    plain["training"] |= {"learning_rate": learning_rate, "epochs": epochs}
    plain.pop("seeds", None)
    return Experiment.model_validate_json(json.dumps(plain))


def unsteered(graph: Graph) -> Graph:
    """Every unit up to the scores, without directions: nothing is pushed, nothing to analyse."""
    left_out = ("directions", "analysis")
    return build_graph(unit for unit in graph.units.values() if unit.id.kind not in left_out)


def measure(experiment: Experiment, graph: Graph, run: Path) -> list[Installed]:
    """Read each adapter's rates off the finished units."""
    units = survey(run, graph).reused
    marks = score.from_unit(units[SCORE])
    found = []
    for persona in experiment.headline:
        bystanders = dataset.from_unit(units[dataset_unit(persona)]).bystanders
        mine = [cell for cell in cells(experiment) if cell.persona == persona]
        read = {cell: fmean(mark.fired for mark in marks[cell.name]) for cell in mine}
        rates = {cell.prompt_of: r for cell, r in read.items() if cell.prompt == "persona"}
        neutral = next(rate for cell, rate in read.items() if cell.prompt == "neutral")
        own = rates.pop(None)
        negative = [rate for name, rate in rates.items() if name in bystanders]
        held = [rate for name, rate in rates.items() if name not in bystanders]
        found.append(
            Installed(
                persona=persona,
                own=own,
                trained_negative=fmean(negative),
                held_out=fmean(held),
                neutral=neutral,
                difference=own - fmean([*rates.values(), neutral]),
            )
        )
    return found


def gate(found: list[Installed]) -> dict[str, float | int | bool]:
    """G1 over the headline personas: mean difference with one-sided 95% bounds by Student's t."""
    differences = [one.difference for one in found]
    mean, n = fmean(differences), len(differences)
    margin = float(stats.t.ppf(0.95, n - 1)) * stdev(differences) / n**0.5
    enough = sum(difference >= LEAST_ONE for difference in differences)
    passes = mean - margin >= LEAST_MEAN and enough >= LEAST_SHARE * n
    return {"mean": mean, "lower": mean - margin, "upper": mean + margin, "personas": enough,
            "passes": passes}  # fmt: skip


def try_rung(loaded: Loaded, rung: tuple[float, int], run: Path, device: str) -> dict[str, Any]:
    """Train and measure one rung; all rungs share one run directory, so answers are drawn once."""
    began = time.perf_counter()
    experiment = prompt_only(loaded.experiment, *rung)
    place = Place(directory=loaded.directory, device=device)
    graph = unsteered(experiment_graph(experiment, place))
    with open_run(run, " ".join(sys.argv)) as held:
        raise_failures(execute(graph, held, InlineExecutor()), " ".join(sys.argv))
    found = measure(experiment, graph, run)
    marks = score.from_unit(survey(run, graph).reused[SCORE])
    every = [mark for cell in marks.values() for mark in cell]
    return {
        "learning_rate": rung[0],
        "epochs": rung[1],
        "seconds": round(time.perf_counter() - began, 1),
        "tokens": fmean(mark.tokens for mark in every),
        "ended": fmean(mark.finish == "eos" for mark in every),
        "G1": gate(found),
        "personas": [asdict(one) for one in found],
    }


def main() -> None:
    """Climb until a rung passes; one JSON value, a line a rung on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dir", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rungs", help="for example 1e-3x3,1e-3x6; the ladder's own by default")
    asked = parser.parse_args()
    rungs = RUNGS
    if asked.rungs:
        pairs = [one.split("x") for one in asked.rungs.split(",")]
        rungs = tuple((float(rate), int(epochs)) for rate, epochs in pairs)
    loaded = load_experiment(asked.experiment)
    tried: list[dict[str, Any]] = []
    text = ""
    for rung in rungs:
        tried.append(try_rung(loaded, rung, asked.dir, choose_device(asked.device)))
        one = {k: v for k, v in tried[-1].items() if k != "personas"}
        sys.stderr.write(json.dumps(one) + "\n")
        text = json.dumps({"experiment": loaded.experiment.name, "rungs": tried}, indent=1)
        if asked.out:
            asked.out.write_text(text + "\n", "utf-8")
        if tried[-1]["G1"]["passes"]:
            break
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
