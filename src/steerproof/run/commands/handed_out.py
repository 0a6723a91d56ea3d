"""`completions`: what a judge is given, blind to where each text is from."""

import csv
import io
import json
from pathlib import Path

from steerproof.errors import ExperimentError
from steerproof.run.artefacts import cell
from steerproof.run.commands.session import session_in
from steerproof.run.graph.names import cell_unit
from steerproof.run.graph.survey import recorded
from steerproof.spec.grid import cells
from steerproof.study.readouts.judge import ID, row_id
from steerproof.text import neutralise_csv

_COLUMNS = (ID, "question", "completion")


def handed_out(run: Path, ending: str) -> tuple[bytes, int]:
    """Every finished completion with its row id, in the order of the ids.

    Args:
        run: The run directory.
        ending: `.jsonl`: the texts as they are; `.csv`: neutralised, so that no spreadsheet runs
            one as a formula.

    Returns:
        The file and the number of completions.

    Raises:
        ExperimentError: Another ending, or no cell is measured yet.
        IntegrityError: A file is not what its manifest says.
    """
    if ending not in (".jsonl", ".csv"):
        raise ExperimentError(f"no file of completions ends in {ending!r}; choose .jsonl or .csv")
    experiment, finished = session_in(run).experiment, recorded(run)
    questions = experiment.questions.evaluation
    rows = sorted(
        (row_id(asked.name, done), questions[done.question], done.text)
        for asked in cells(experiment)
        if cell_unit(asked) in finished
        for done in cell.completions_of(finished[cell_unit(asked)])
    )
    if not rows:
        raise ExperimentError(f"{run} has no measured cell yet")
    out = io.StringIO()
    if ending == ".csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([neutralise_csv(value) for value in row] for row in rows)
    else:
        for row in rows:
            line = dict(zip(_COLUMNS, row, strict=True))
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return out.getvalue().encode(errors="replace"), len(rows)
