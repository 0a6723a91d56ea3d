"""The tables of the controls: `python -m tools.controls_table docs`.

Reads `docs/data/controls.json`, which `benchmarks/controls.py` writes, and rewrites the marked part
of `docs/statistics.md`.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.answers_study import with_tables

CONTROLS = ("positive-control", "negative-control")
REGISTERED = ("SUPPORTED", "REFUTED", "INCONCLUSIVE")
ANSWERS = (*REGISTERED, "CANNOT ANSWER")
Run = Mapping[str, Any]


def controls_tables(table: Mapping[str, Any]) -> str:
    """Both verdicts of each control with their exact intervals, then every run."""
    parts = [_summary(table)]
    for control in CONTROLS:
        runs = sorted(_of(table, control), key=lambda one: one["seed"])
        parts.append(f"{control}, by seed:\n\n{_by_seed(runs)}")
    return "\n\n".join(parts)


def _of(table: Mapping[str, Any], control: str) -> list[Run]:
    return [one for one in table["runs"] if one["control"] == control]


def _summary(table: Mapping[str, Any]) -> str:
    head = ["control", "rule", "SUPPORTED", "exact 95% interval"]
    head += ["REFUTED", "INCONCLUSIVE", "CANNOT ANSWER"]
    rows = [head, ["---"] * len(head)]
    for control in CONTROLS:
        runs = _of(table, control)
        said = {
            "registered": Counter(one["verdict"] for one in runs),
            "answers": Counter(one["answers"]["ranking"] for one in runs),
        }
        for rule, name in (("registered", "as registered"), ("answers", "ranking")):
            found, counts = table["supported"][control][rule], said[rule]
            low, high = found["interval"]
            rows.append(
                [
                    control,
                    name,
                    f"{found['supported']} of {found['runs']}",
                    f"{low:.3f} to {high:.3f}",
                    str(counts["REFUTED"]),
                    str(counts["INCONCLUSIVE"]),
                    "–" if rule == "registered" else str(counts["CANNOT ANSWER"]),
                ]
            )
    return _table(rows)


def _by_seed(runs: Sequence[Run]) -> str:
    shuffled = any(matrix["trained_label"] for one in runs for matrix in one["answers"]["matrices"])
    head = ["seed", "rho (registered interval)", "kills", "as registered", "ranking", "S (p)"]
    head += ["S (p), trained label"] * shuffled
    rows = [head, ["---"] * len(head)]
    for one in runs:
        low, high = one["interval"] or (float("nan"), float("nan"))
        s = {matrix["trained_label"]: matrix for matrix in one["answers"]["matrices"]}
        rows.append(
            [
                str(one["seed"]),
                f"{one['rho']:+.2f} ({low:+.2f} to {high:+.2f})",
                ", ".join(one["kills"]) or "none",
                one["verdict"],
                one["answers"]["ranking"],
                *(_s(s[label]) for label in ((False, True) if shuffled else (False,))),
            ]
        )
    return _table(rows)


def _s(matrix: Mapping[str, Any]) -> str:
    value, p = matrix["s"]["value"], matrix["p"]
    return f"{value:+.2f} ({p:.{4 if p < 0.001 else 2}f})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Rewrite the marked part of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("docs", type=Path)
    docs = parser.parse_args().docs
    table = json.loads((docs / "data" / "controls.json").read_bytes())
    page = docs / "statistics.md"
    tables = {"controls": controls_tables(table)}
    page.write_text(with_tables(page.read_text("utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
