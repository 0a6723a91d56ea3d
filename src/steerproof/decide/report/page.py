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

from steerproof.decide.report import view as report_view
from steerproof.decide.report import wording
from steerproof.decide.report.figures import Drawing, draw_all
from steerproof.decide.report.inputs import ReportInputs, short_name

__all__ = ["SOURCES", "Report", "ReportInputs", "build", "figures", "render"]

_PAGE = Path(str(files("steerproof.decide.report"))) / "templates" / "report.html.j2"
STYLES = (
    Path(str(files("steerproof"))) / "static" / "design.css",
    _PAGE.with_name("report.css"),
)
"""The design language that the board uses too, then what only a report needs."""
SOURCES = (_PAGE, *STYLES)
"""Every file that a page is made from; a change of any makes another page."""
_POLICY = ("default-src 'none'", "base-uri 'none'", "form-action 'none'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The page and its figures."""

    html: str
    figures: Mapping[str, str]
    """Standalone SVG text by name, without ending."""


def build(inputs: ReportInputs) -> Report:
    """Draw every figure once and write the page. The same inputs give the same text."""
    drawings = draw_all(inputs)
    return Report(
        html=page(inputs, drawings), figures={name: d.svg for name, d in drawings.items()}
    )


def render(inputs: ReportInputs) -> str:
    """The page alone."""
    return build(inputs).html


def figures(inputs: ReportInputs) -> dict[str, str]:
    """The figures alone, as standalone SVG by name."""
    return {name: drawing.svg for name, drawing in draw_all(inputs).items()}


def page(inputs: ReportInputs, drawings: Mapping[str, Drawing]) -> str:
    """The page, from figures that are drawn already."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template(_PAGE.name)
        .render(
            inputs=inputs,
            experiment=inputs.experiment,
            asked=inputs.experiment.analysis,
            found=inputs.analysis,
            tested=inputs.analysis.tested,
            drawings=drawings,
            view=report_view,
            words=wording,
            short=short_name,
            style=Markup(style),  # our own file
            policy="; ".join((*_POLICY, f"style-src 'sha256-{digest}'")),
            command=inputs.command or f"steerproof run {inputs.experiment.name}",
        )
    )


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
