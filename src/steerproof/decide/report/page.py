"""The report: one HTML file that needs no network, no script and no other file.

Everything that others wrote (completions, questions, reasons) is escaped by the template; the
only markup that passes is the figures', which are rewritten from matplotlib's output. The content
policy forbids everything but the page's own style sheet, named by its hash.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from steerproof.decide.report import answers, wording
from steerproof.decide.report import view as report_view
from steerproof.decide.report.figures import Drawing, Shown, draw_all
from steerproof.decide.report.figures.ranking import tested_arms
from steerproof.decide.report.inputs import ReportInputs, short_name
from steerproof.decide.report.samples import samples
from steerproof.garbage import not_collecting

__all__ = ["SOURCES", "Report", "ReportInputs", "build", "figures", "render"]

_TEMPLATES = Path(str(files("steerproof.decide.report"))) / "templates"
STYLES = (
    Path(str(files("steerproof"))) / "static" / "design.css",
    _TEMPLATES / "report.css",
)
"""The design language that the board uses too, then what only a report needs."""
SOURCES = (*sorted(_TEMPLATES.glob("*.j2")), *STYLES)
"""Every file that a page is made from; a change of any makes another page."""
_CONTENTS = (
    ("tested", "What was tested"),
    ("objections", "What stands against it: objections"),
    ("ranking", "Ranking"),
    ("gates", "Gates"),
    ("matrix", "Matrix"),
    ("mechanism", "Mechanism"),
    ("strengths", "Rates"),
    ("controls", "Controls"),
    ("kills", "Kills"),
    ("bootstrap", "Uncertainty"),
    ("fluency", "Fluency"),
    ("geometry", "Geometry"),
    ("training", "Training"),
    ("completions", "Completions"),
    ("registration", "Registration"),
    ("reproduce", "Reproduce"),
)
"""Parts of the page, by identifier."""
_POLICY = ("default-src 'none'", "base-uri 'none'", "form-action 'none'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The page and its figures."""

    html: str
    figures: Mapping[str, str]
    """Standalone SVG text by name, without ending."""


def build(inputs: ReportInputs) -> Report:
    """Draw every figure once and write the page. The same inputs give the same text."""
    with not_collecting():
        drawings = draw_all(inputs)
    return Report(html=page(inputs, drawings), figures=_files(drawings))


def render(inputs: ReportInputs) -> str:
    """The page alone."""
    return build(inputs).html


def figures(inputs: ReportInputs) -> dict[str, str]:
    """The figures alone, as standalone SVG by name."""
    return _files(draw_all(inputs))


def _files(drawings: Mapping[str, Shown]) -> dict[str, str]:
    return {name: shown.svg for name, shown in drawings.items() if isinstance(shown, Drawing)}


def page(inputs: ReportInputs, drawings: Mapping[str, Shown]) -> str:
    """The page, from figures that are drawn already."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            inputs=inputs,
            experiment=inputs.experiment,
            asked=inputs.experiment.analysis,
            found=inputs.analysis,
            tested=inputs.analysis.tested,
            drawings=drawings,
            first=_first(drawings),
            contents=_contents(inputs),
            shown_arms=[inputs.experiment.arm(arm) for arm in tested_arms(inputs)],
            answers=answers,
            samples=samples(inputs),
            view=report_view,
            words=wording,
            short=short_name,
            style=Markup(style),  # our own file
            policy="; ".join((*_POLICY, f"style-src 'sha256-{digest}'")),
            command=f"steerproof run {inputs.experiment.name}",
        )
    )


def _contents(inputs: ReportInputs) -> list[tuple[str, str]]:
    """The parts that this page has."""
    absent = {"gates"} if not answers.gates(inputs) else set()
    given = inputs.answers
    if not given.direction.matrices:
        absent.add("matrix")
    if not (given.pushes or given.direction.draws):
        absent.add("mechanism")
    return [part for part in _CONTENTS if part[0] not in absent]


def _first(drawings: Mapping[str, Shown]) -> str:
    """The figure of the first screen that says most: the matrix, else what the verdict rests on."""
    wanted = ("matrix", "estimates", "ranking")
    drawn = (name for name in wanted if isinstance(drawings.get(name), Drawing))
    return next(drawn, "ranking")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("steerproof.decide.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["drawn"] = lambda drawing: Markup(drawing.inline)  # our own SVG
    return environment


def _style() -> str:
    return "\n" + "\n".join(path.read_text(encoding="utf-8") for path in STYLES)
