"""Measure the organism and write the numbers into its page in the documentation.

    python -m tools.organism.report --docs docs [--weights DIR]

It asks three things of a checkpoint: how its personas lie to one another, how long their directions
are beside the residual stream, and how much of its text survives a push of a given ratio.
"""

import argparse
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.engine.generate import generate
from steerproof.engine.rows import Row
from steerproof.engine.sampling import row_seed
from steerproof.model.base import Base, load_base
from steerproof.model.chat import chat_ids
from steerproof.model.push import Push
from steerproof.spec.experiment import Experiment
from steerproof.spec.yaml_io import load_experiment
from steerproof.study.directions import prompts_of
from steerproof.study.geometry import LayerGeometry, geometry
from steerproof.study.readouts.plain import repetition
from tools.organism.build import WEIGHTS
from tools.organism.corpus import known_share
from tools.organism.lexicon import own_openers

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3)
SAMPLES = 2
BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"
FIGURE = "figures/organism-fluency.svg"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fluency:
    """What a push of one ratio does to text under the neutral prompt, over headline personas."""

    ratio: float
    known: float
    """Mean share of sentences that the corpus can hold."""
    own_opener: float
    """Share of completions that begin like the pushed persona."""
    ended: float
    """Share of completions that end before the length limit."""
    repeated: float | None
    """Mean repetition, over completions for which it is defined."""


def fluency(base: Base, experiment: Experiment, layer: LayerGeometry) -> list[Fluency]:
    """The fluency-vs-ratio curve of one layer, every completion drawn in one pool."""
    rows: list[Row] = []
    meant: dict[str, tuple[float, str]] = {}
    for ratio in RATIOS:
        for persona in experiment.headline:
            push = layer.push(persona, ratio=ratio) if ratio else None
            cell = f"{ratio} {persona}"
            meant[cell] = ratio, persona
            rows += _rows(base, experiment, cell, push)
    seen: dict[float, list[tuple[float, bool, bool, float | None]]] = {r: [] for r in RATIOS}
    for done in generate(base, rows, experiment.generation):
        ratio, persona = meant[done.row.cell]
        text = str(base.tokenizer.decode(list(done.token_ids)))
        seen[ratio].append(
            (
                known_share(text),
                text.startswith(own_openers(persona)),
                done.finish == "eos",
                repetition(done.token_ids),
            )
        )
    return [_summary(ratio, values) for ratio, values in seen.items()]


def _rows(base: Base, experiment: Experiment, cell: str, push: Push | None) -> list[Row]:
    return [
        Row(
            cell=cell,
            question=number,
            sample=sample,
            seed=row_seed(experiment.seed, cell, number, sample),
            prompt_ids=chat_ids(base.chat, system=experiment.neutral_prompt, user=question),
            push=push,
        )
        for number, question in enumerate(experiment.questions.evaluation)
        for sample in range(SAMPLES)
    ]


def _summary(ratio: float, values: list[tuple[float, bool, bool, float | None]]) -> Fluency:
    repeats = [value[3] for value in values if value[3] is not None]
    return Fluency(
        ratio=ratio,
        known=fmean(value[0] for value in values),
        own_opener=fmean(value[1] for value in values),
        ended=fmean(value[2] for value in values),
        repeated=fmean(repeats) if repeats else None,
    )


def figure(curves: dict[int, list[Fluency]]) -> Figure:
    """One panel per layer: sentences that survive, and completions that begin as the persona."""
    drawn = Figure(figsize=(4.2 * len(curves), 3.2), layout="constrained")
    for axes, (layer, curve) in zip(
        drawn.subplots(1, len(curves), sharey=True, squeeze=False)[0], curves.items(), strict=True
    ):
        ratios = [point.ratio for point in curve]
        axes.plot(ratios, [p.known for p in curve], "o-", color="#0072b2", label="known sentences")
        axes.plot(ratios, [p.own_opener for p in curve], "s--", color="#d55e00", label="own opener")
        axes.set(title=f"layer {layer}", xlabel="ratio ‖c·v‖ / h̄", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    drawn.axes[0].set_ylabel("share")
    drawn.axes[0].legend(frameon=False)
    return drawn


def tables(
    build: dict[str, object],
    layers: dict[int, LayerGeometry],
    curves: dict[int, list[Fluency]],
    experiment: Experiment,
) -> str:
    """The measured numbers as Markdown."""
    parts = [
        f"{build['parameters']:,} parameters, loss at the end {build['final_loss']} "
        "(nats per answer token, each chat counting the same).",
        _layer_table(layers, experiment),
        f"Cosines of the centroids at layer {experiment.layers.primary}:",
        _cosine_table(layers[experiment.layers.primary].calibration, experiment),
        f"![Fluency against ratio]({FIGURE})",
    ]
    for layer, curve in curves.items():
        parts += [f"Pushed at layer {layer}, under the neutral prompt:", _curve_table(curve)]
    return "\n\n".join(parts)


def _layer_table(layers: dict[int, LayerGeometry], experiment: Experiment) -> str:
    head = (
        "| layer | h̄ | ‖v‖, least to most | ratio at `c=+2` | largest cosine of a pair "
        "| neutral's largest cosine | least split-half |"
    )
    lines = [head, "|" + "---|" * 7]
    for layer, at in layers.items():
        found = at.calibration
        mine = [found.personas[name] for name in experiment.headline]
        norms = sorted(one.norm for one in mine)
        largest = max(
            found.cosines[a][b] or 0.0
            for a in experiment.headline
            for b in experiment.headline
            if a != b
        )
        lines.append(
            f"| {layer} | {found.h_bar:.1f} | {norms[0]:.1f} to {norms[-1]:.1f} "
            f"| {2 * norms[0] / found.h_bar:.2f} to {2 * norms[-1] / found.h_bar:.2f} "
            f"| {largest:.2f} | {found.neutral_cosine_max:.2f} "
            f"| {min(one.split_half or 0.0 for one in mine):.3f} |"
        )
    return "\n".join(lines)


def _cosine_table(found: LayerCalibration, experiment: Experiment) -> str:
    names = [persona.name for persona in experiment.personas]
    lines = ["| | " + " | ".join(str(i + 1) for i in range(len(names))) + " |"]
    lines.append("|" + "---|" * (len(names) + 1))
    for i, name in enumerate(names):
        cells = [f"{found.cosines[name][other]:.2f}" for other in names]
        lines.append(f"| {i + 1} {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _curve_table(curve: list[Fluency]) -> str:
    lines = [
        "| ratio | known sentences | own opener | ended | repetition |",
        "|---|---|---|---|---|",
    ]
    for point in curve:
        repeated = "undefined" if point.repeated is None else f"{point.repeated:.3f}"
        lines.append(
            f"| {point.ratio:.1f} | {point.known:.2f} | {point.own_opener:.2f} "
            f"| {point.ended:.2f} | {repeated} |"
        )
    return "\n".join(lines)


def fill(page: str, numbers: str) -> str:
    """Put the numbers between the page's two marks.

    Raises:
        ValueError: the page lacks the marks.
    """
    filled, count = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n\n{numbers}\n\n{END}",
        page,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"the page has {count} places for numbers, needs one: {BEGIN} ... {END}")
    return filled


def main() -> None:
    """Command line of the report."""
    parser = argparse.ArgumentParser(description="Measure the organism.")
    parser.add_argument("--docs", type=Path, required=True, help="directory of organism.md")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    experiment = load_experiment("zlt").experiment
    base = load_base(arguments.weights)
    every = range(len(base.blocks))
    layers = geometry(base, prompts_of(experiment), every, experiment.seed)
    curves = {}
    for layer in (experiment.layer("contrast"), experiment.layer("primary")):
        log.info("pushing at layer %d", layer)
        curves[layer] = fluency(base, experiment, layers[layer])
    build = json.loads((arguments.weights / "build.json").read_text())
    figure(curves).savefig(arguments.docs / FIGURE, metadata={"Date": None})
    page = arguments.docs / "organism.md"
    page.write_text(fill(page.read_text(), tables(build, layers, curves, experiment)))


if __name__ == "__main__":
    main()
