"""The main numbers as a LaTeX table: what the verdict rests on, arm by arm.

Names of arms and personas are hostile text to LaTeX too: every character that means something to
it is written so that it means itself, and what pdfLaTeX has no letter for as its number.
"""

from collections.abc import Iterator

from steerproof.decide.analysis.records import Analysis, Bounds
from steerproof.decide.report.inputs import ReportInputs
from steerproof.text import clean_line

_MEANS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}", "`": r"\textasciigrave{}", "-": r"{-}", "?": r"{?}", "!": r"{!}",
    "[": r"{[}", "]": r"{]}", "*": r"{*}",
}  # fmt: skip
_LETTERS = (0xC0, 0xFF)
"""Accented letters that pdfLaTeX knows without a package."""
_COLUMNS = (
    ("arm", "l"),
    ("strength", "l"),
    ("$n$", "r"),
    ("$\\rho$", "r"),
    ("interval", "l"),
    ("$p$", "r"),
    ("mean rate", "r"),
    ("passes", "l"),
)


def latex_text(text: str) -> str:
    """Text as LaTeX prints it, on one line."""
    return "".join(map(_letter, clean_line(text)))


def _letter(character: str) -> str:
    code = ord(character)
    if character in _MEANS:
        return _MEANS[character]
    if code < 0x7F or (_LETTERS[0] <= code <= _LETTERS[1] and code not in (0xD7, 0xF7)):
        return character
    return f"{{[}}U+{code:04X}{{]}}"


def table(inputs: ReportInputs) -> str:
    """A `table` environment with the numbers of every arm at the registered strengths.

    It needs the package textcomp, which is part of LaTeX since 2020, and no other.
    """
    analysis = inputs.analysis
    heads = " & ".join(name for name, _ in _COLUMNS)
    lines = [
        "% \\input this file; it needs no package.",
        "\\begin{table}",
        "\\centering\\small",
        f"\\begin{{tabular}}{{{''.join(side for _, side in _COLUMNS)}}}",
        "\\hline",
        f"{heads} \\\\",
        "\\hline",
        *_rows(analysis),
        "\\hline",
        "\\end{tabular}",
        f"\\caption{{{_caption(inputs)}}}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _rows(analysis: Analysis) -> Iterator[str]:
    for name, arm in analysis.arms.items():
        means = (arm.mean_rates.get("primary"), arm.mean_rates.get("co_primary"))
        for result, mean in zip(arm.strengths, means, strict=False):
            cells = (
                latex_text(name) if result is arm.primary else "",
                latex_text(result.strength),
                str(result.n),
                _number(result.rho, "+.3f"),
                _interval(result.interval),
                _number(result.permutation_p, ".4f"),
                _number(mean, ".3f"),
                {True: "yes", False: "no", None: "undecided"}[result.passes],
            )
            yield " & ".join(cells) + " \\\\"


def _number(value: float | None, form: str) -> str:
    return "---" if value is None else f"${value:{form}}$"


def _interval(value: Bounds | None) -> str:
    return "---" if value is None else f"$[{value[0]:+z.2f}, {value[1]:+z.2f}]$"


def _caption(inputs: ReportInputs) -> str:
    experiment, found = inputs.experiment, inputs.analysis
    analysis = experiment.analysis
    said = [f"{experiment.title}.", f"Registered verdict: {found.verdict}."]
    if experiment.exploratory is not None:
        said.insert(1, f"Exploratory: {experiment.exploratory}.")
    lock = inputs.registration.lock
    locked = "" if lock is None else f" Lock {lock.sha256[:12]}."
    words = (
        "Rank correlation of the firing rate under the push with the rate of arm"
        f" {analysis.bridge_arm} under its own prompts; interval: {analysis.confidence:.0%},"
        f" questions resampled; p: permutation of personas, two-sided.{locked}"
    )
    return latex_text(" ".join((*said, words)))
