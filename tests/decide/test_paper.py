"""Figures at a paper's width: nothing cut off, letters that can be read, the numbers themselves."""

import csv
import io
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from steerproof.decide.analysis.kinds import bridge_kind, steered_kind
from steerproof.decide.analysis.rates import cell_rates
from steerproof.decide.report.figures import Drawing, draw_all
from steerproof.decide.report.figures.canvas import TIP, as_file
from steerproof.decide.report.figures.paper import data_csv, paper, shapes
from steerproof.decide.report.latex import latex_text, table
from steerproof.errors import SteerproofError
from steerproof.run.commands.figures import width_in_inches
from tests.decide import report_example as example

WIDTHS = (3.2, 3.4, 7.0)
SMALLEST = 4.3
"""Points: the letters in the cells of a matrix of twelve."""
HOSTILE = r"\input{/etc/passwd} $x^2$ a_b & 100% # ~ <b> {} \ ?` --- ß é 漢 " + "\x1b[31m\u202e"


@cache
def drawn(width):
    with paper(width):
        found = draw_all(example.inputs())
    return {name: shown for name, shown in found.items() if isinstance(shown, Drawing)}


def rows(shown):
    return list(csv.DictReader(io.StringIO(data_csv(shapes(shown.figure, TIP)))))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_figure_has_the_width_and_keeps_its_letters_inside(width):
    assert set(drawn(width)) == set(example.drawn()[0])
    for name, shown in drawn(width).items():
        figure = shown.figure
        assert figure.get_size_inches()[0] == pytest.approx(width)
        box = figure.get_tightbbox()
        assert box.x0 > -0.01, name
        assert box.x1 < width + 0.01, name
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) >= SMALLEST, name


def test_outside_of_a_paper_nothing_changes():
    before = {name: shown.svg for name, shown in example.drawn()[0].items()}
    drawn(3.4)
    again = draw_all(example.inputs())
    assert {name: shown.svg for name, shown in again.items()} == before


@pytest.mark.parametrize(
    ("kind", "head"), [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<svg")]
)
def test_formats_are_what_they_say_and_the_same_bytes_again(kind, head):
    shown = drawn(3.4)["ranking"]
    content = as_file(shown, kind)
    assert content.startswith(head)
    assert as_file(shown, kind) == content


def test_the_data_of_the_ranking_are_the_rates():
    inputs = example.inputs()
    design, personas = inputs.experiment, inputs.experiment.headline
    points = [row for row in rows(drawn(3.4)["ranking"]) if row["kind"] == "point"]
    first = points[: len(personas)]
    found = {row["series"].partition(":")[0]: (float(row["x"]), float(row["y"])) for row in first}
    steered = steered_kind(design, design.analysis.arm, design.analysis.primary_strength)
    bridge = cell_rates(inputs.rates, bridge_kind(design), personas)
    pushed = cell_rates(inputs.rates, steered, personas)
    for persona, x, y in zip(personas, bridge, pushed, strict=True):
        assert found[persona.replace("_", " ")] == pytest.approx((x, y))


def test_the_data_of_other_figures_are_what_was_measured_not_where_it_was_drawn():
    inputs = example.inputs()
    ratios = {round(row.ratio, 4) for row in inputs.detail.fluency if row.ratio is not None}
    found = {round(float(row["x"]), 4) for row in rows(drawn(3.4)["fluency"])}
    assert found <= ratios | {0.0}
    layer = inputs.experiment.layers.primary
    table_of = inputs.calibration[layer].cosines
    cells = rows(drawn(3.4)["cosines"])
    assert len(cells) == len(table_of) ** 2
    for row in cells:
        a, b = (row[name].replace(" ", "_") for name in ("y_name", "x_name"))
        assert float(row["value"]) == pytest.approx(table_of[a][b], abs=1e-6)
    assert all(np.isfinite(float(row["y"])) for shown in drawn(3.4).values() for row in rows(shown))


@pytest.mark.parametrize(
    ("text", "inches"),
    [("3.4in", 3.4), ("86mm", 86 / 25.4), (" 8.6cm", 8.6 / 2.54), ("246pt", 3.404)],
)
def test_widths_have_a_unit(text, inches):
    assert width_in_inches(text) == pytest.approx(inches, rel=1e-3)


@pytest.mark.parametrize("text", ["3.4", "wide", "in", "3,4in", "3em"])
def test_other_widths_are_refused_with_an_example(text):
    with pytest.raises(SteerproofError, match=r"3\.4in"):
        width_in_inches(text)


@pytest.mark.parametrize("width", [0.0, 2.9, 21.0, float("nan")])
def test_a_width_that_no_figure_can_have_is_refused(width):
    with pytest.raises(SteerproofError, match="allowed"), paper(width):
        pass


def test_names_mean_themselves_to_latex():
    assert latex_text("a_b & 100%") == r"a\_b \& 100\%"
    assert latex_text(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert latex_text("漢") == "{[}U+6F22{]}"
    assert "\x1b" not in latex_text(HOSTILE)


def test_the_table_has_every_arm_and_its_numbers():
    inputs = example.inputs()
    text = table(inputs)
    for name, arm in inputs.analysis.arms.items():
        assert latex_text(name) in text
        assert f"${arm.primary.rho:+.3f}$" in text
    assert f"Registered verdict: {inputs.analysis.verdict}" in text
    design = inputs.experiment.model_copy(update={"exploratory": "one of many"})
    assert "Exploratory: one of many." in table(replace(inputs, experiment=design))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_table_compiles_whatever_the_names(tmp_path: Path):
    inputs = example.inputs()
    design = inputs.experiment.model_copy(update={"title": HOSTILE})
    (tmp_path / "main-numbers.tex").write_text(table(replace(inputs, experiment=design)))
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\begin{document}\\input{main-numbers}\\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:].decode(errors="replace")
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")
