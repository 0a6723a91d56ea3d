"""The study behind docs/statistics.md: `python -m tools.power_study DOCS`.

It simulates every design of the tables, draws the figures, and rewrites the marked parts of
the page, so that no number in it is typed by hand. It takes a few minutes on two cores.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from steerproof.decide.review.power import (
    OperatingCharacteristics,
    Trial,
    operating_characteristics,
    to_json,
)
from steerproof.decide.review.simulation import Design, RateModel
from tools.power_figures import error_rates, error_table, size_table, sizes

REGISTERED = "10 personas, 20 questions, 5 samples"
DESIGNS = {
    REGISTERED: Trial(simulations=1000, covered=300),
    "6 personas": Trial(design=Design(personas=6), covered=0),
    "20 personas": Trial(design=Design(personas=20), covered=0),
    "30 personas": Trial(design=Design(personas=30), covered=0, simulations=250),
    "5 questions": Trial(design=Design(questions=5), covered=0),
    "80 questions": Trial(design=Design(questions=80), covered=0),
    "1 sample": Trial(design=Design(samples=1), covered=0),
    "20 samples": Trial(design=Design(samples=20), covered=0),
    "a floor at 0.2": Trial(model=RateModel(floor=0.2), covered=0),
    "no question effects": Trial(
        model=RateModel(question_spread=0.0, cluster_spread=0.0), covered=0
    ),
    "question effects shared by a persona's cells": Trial(
        model=RateModel(question_spread=0.0, cluster_spread=1.0, shared=1.0),
        simulations=1000,
        covered=0,
    ),
}
"""Simulated designs; unnamed quantities are those of the registered one."""
FAMILIES = {
    "Personas": ("6 personas", REGISTERED, "20 personas", "30 personas"),
    "Questions": ("5 questions", REGISTERED, "80 questions"),
    "Samples": ("1 sample", REGISTERED, "20 samples"),
}
_SHORT = {"Personas": "10 personas", "Questions": "20 questions", "Samples": "5 samples"}


def main(docs: Path) -> None:
    """Run the study and write figures, data and tables below `docs`."""
    found = {name: operating_characteristics(trial) for name, trial in DESIGNS.items()}
    families = {
        title: {(_SHORT[title] if m == REGISTERED else m): found[m] for m in members}
        for title, members in FAMILIES.items()
    }
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for picture in (error_rates(found[REGISTERED]), sizes(families)):
        (figures / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
    data = {name: to_json(one) for name, one in found.items()}
    (docs / "data").mkdir(exist_ok=True)
    text = json.dumps(data, indent=1, allow_nan=False)
    (docs / "data" / "power.json").write_text(text + "\n", encoding="utf-8")
    page = docs / "statistics.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8"), found), encoding="utf-8")


def with_tables(page: str, found: Mapping[str, OperatingCharacteristics]) -> str:
    """The page with its marked parts replaced by tables."""
    tables = {"errors": error_table(found[REGISTERED]), "sizes": size_table(found)}
    for name, table in tables.items():
        part = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        page = part.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
