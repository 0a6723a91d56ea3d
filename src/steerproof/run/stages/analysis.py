"""From the rate table to a verdict: as registered, and the three answers. No torch."""

from collections.abc import Sequence

from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.calibration import layer_gate
from steerproof.decide.analysis.rig import Margins, Rig
from steerproof.decide.analysis.slots import SlotRow, TextKind, margins
from steerproof.run.artefacts import calibration, score, slots
from steerproof.run.artefacts.analysis import AnalysisResult, to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.names import GRADED, SCORE
from steerproof.run.stages.inputs import Sliced, inputs_of
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import cells
from steerproof.study.marks import text_of


def analysis(tasks: Sequence[Task]) -> Outcomes:
    """The analysis of the rate table: analysis.json, answers.json, gates.json."""
    yield from each(tasks, _analysis)


def _analysis(task: Task) -> Files:
    experiment = inputs_of(task, Sliced).part
    read = [s for unit, s in task.upstream.items() if unit.kind == "directions"]
    layers = {at.layer: at for at in map(calibration.from_unit, read)}
    table = score.rates_of(task.upstream[SCORE], experiment)
    marks = score.from_unit(task.upstream[SCORE])
    read_texts = {
        cell: text_of(marks.get(cell.name, ()), experiment.answers.repetition)
        for cell in table.cells
    }
    texts = {cell: text for cell, text in read_texts.items() if text is not None}
    rows = slots.from_unit(task.upstream[GRADED]) if GRADED in task.upstream else ()
    common, own = (_margins(rows, experiment, text) for text in ("common", "own"))
    rig = Rig(layers=layers, texts=texts, margins=common, own_margins=own)
    analysis, answers = conclude(table, experiment, rig=rig)
    gates = tuple(layer_gate(experiment, at) for at in layers.values())
    return to_files(AnalysisResult(analysis=analysis, answers=answers, gates=gates))


def _margins(rows: Sequence[SlotRow], experiment: Experiment, text: TextKind) -> Margins:
    """What was weighed at the end of texts of a kind; empty where no cell is graded."""
    return margins(rows, cells(experiment), len(experiment.questions.evaluation), text)
