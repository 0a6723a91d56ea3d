"""What the commands show on a terminal: texts and tables, from the records they have.

Names, errors and remedies may hold hostile text: control and bidirectional characters are taken
out before anything is shown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from steerproof.text import byte_unit, clean, duration

if TYPE_CHECKING:  # the help and the version need neither numpy nor pydantic
    from steerproof.decide.analysis.answer_records import ThreeAnswers
    from steerproof.decide.analysis.records import Analysis, Bounds
    from steerproof.decide.review.plan import Plan, Range
    from steerproof.decide.review.power import OperatingCharacteristics
    from steerproof.run.commands.doctor import MachineCheck
    from steerproof.run.commands.planning import Planned
    from steerproof.run.commands.status import RunStatus
    from steerproof.run.commands.sweep import SweepResult


def verdict_text(answers: "ThreeAnswers", place: Path) -> str:
    """The three answers, what they mean together, and where the report is."""
    report = f"  report: {place / 'results' / 'report.html'}"
    return "\n".join([*answers.lines, f"What that means: {answers.reading}.", report])


def _headed(table: Table, title: str, *below: str) -> Group:
    """A table between lines, which are as wide as the terminal and not as the table."""
    return Group(Text(clean(title), style="bold"), table, *(Text(clean(t)) for t in below if t))


def analysis_table(analysis: "Analysis", answers: "ThreeAnswers | None" = None) -> Group:
    """The three answers, and every arm at both strengths as registered.

    Args:
        analysis: As registered.
        answers: None shows what is registered alone.
    """
    title = f"{analysis.verdict}: {analysis.reason}"
    if answers is not None:
        title = "\n".join(answers.lines)
    # Without borders it fits 80 columns; the kills stand below.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("arm", "strength", "rho", "interval", "leave one out", "p", "passes"):
        table.add_column(column, overflow="fold")
    kills = []
    for name, arm in analysis.arms.items():
        fired = [kill for kill, result in arm.kills.items() if result.fired]
        kills += [f"kills that fired in arm {name}: {', '.join(fired)}"] if fired else []
        for result in arm.strengths:
            table.add_row(
                name if result is arm.primary else "",
                result.strength,
                _number(result.rho),
                _bounds(result.interval),
                _bounds(result.leave_one_out),
                _number(result.permutation_p, "{:.4f}"),
                {True: "yes", False: "no", None: "undecided"}[result.passes],
            )
    return _headed(table, title, *kills, analysis.reading)


def _number(value: float | None, form: str = "{:+z.3f}") -> str:
    return "undefined" if value is None else form.format(value)


def _bounds(value: "Bounds | None") -> str:
    return "none" if value is None else f"[{value[0]:+z.2f}, {value[1]:+z.2f}]"


def status_table(status: "RunStatus") -> Group:
    """Units by kind and state, what is done now, and the failures."""
    from steerproof.progress import doing_lines, left_words

    totals = status.totals
    title = f"{status.state}; {totals.seconds:.0f} s of work in {totals.attempts} tries"
    table = Table()
    states = sorted({state for kinds in status.units.values() for state in kinds})
    table.add_column("unit", overflow="fold")
    for state in states:
        table.add_column(state, justify="right", overflow="fold")
    for kind, counts in status.units.items():
        table.add_row(kind, *(str(counts.get(state, "")) for state in states))
    failed = [f"{one.unit}: {one.error} (log: {one.log})" for one in status.failures]
    now = doing_lines(status.doing)
    if status.left is not None:
        now.append(f"left: {left_words(status.left)}")
    return _headed(table, title, status.problem or "", *now, *failed)


def doctor_table(checks: "Sequence[MachineCheck]") -> Table:
    """One line per check, the remedy under it."""
    table = Table(show_header=False, box=None)
    for column in ("level", "name", "text"):
        table.add_column(column, overflow="fold")
    for check in checks:
        text = f"{check.value}\n  -> {check.remedy}" if check.remedy else check.value
        table.add_row(check.level, check.name, clean(text))
    return table


def power_table(characteristics: "OperatingCharacteristics") -> Group:
    """Verdicts by true correlation."""
    least = characteristics.minimum_detectable_rho
    shown = f"{least:.2f}" if least is not None else f"none: {characteristics.reason}"
    of_each = (
        f"{characteristics.trial.simulations} simulated experiments each, "
        f"{characteristics.trial.iterations} bootstrap iterations inside each"
    )
    table = Table()
    for column in ("true rho", "SUPPORTED", "REFUTED", "INCONCLUSIVE", "arm passes"):
        table.add_column(column, justify="right", overflow="fold")
    for point in characteristics.points:
        shares = [point.verdicts[v] for v in ("SUPPORTED", "REFUTED", "INCONCLUSIVE")]
        table.add_row(f"{point.rho:z.2f}", *(f"{share:.1%}" for share in (*shares, point.passes)))
    return _headed(table, f"minimum detectable rho {shown}", of_each)


def plan_tables(planned: "Planned") -> Group:
    """The work, with its estimates, and the objections."""
    plan = planned.plan
    counts = plan.counts
    title = (
        f"{counts.adapters} adapters, {counts.cells} cells, "
        f"{counts.completions:,} completions, in {planned.run}"
    )
    work = Table()
    for column in ("work", "arm", "units", "to do", "each", "hours"):
        left = column in ("work", "arm")
        work.add_column(column, justify="left" if left else "right", overflow="fold")
    for line in plan.table:
        work.add_row(
            line.work,
            line.arm,
            str(line.units),
            str(line.to_do),
            _range(line.each_seconds, "{:.3g}", " s"),
            _range(line.total_hours, "{:.2g}", ""),
        )
    review = Table(show_lines=True)
    for column in ("", "finding", "remedy"):
        review.add_column(column, overflow="fold")
    for objection in planned.objections:
        review.add_row(objection.severity, objection.finding, objection.remedy)
    for gate in planned.gates:
        state = {True: "passes", False: "fails", None: "open"}[gate.passed]
        name = gate.name.replace("_", " ")
        review.add_row("gate", clean(f"{name} {state}: {gate.finding}"), clean(gate.remedy))
    for text in planned.not_yet_known:
        review.add_row("", text, "")
    refused = (f"this machine will not do: {why}" for why in planned.unfit)
    below = (*_estimates(plan), *plan.reasons, *refused)
    return Group(_headed(work, title, *below), _headed(review, "Objections"))


def _estimates(plan: "Plan") -> list[str]:
    shown = [
        ("time", _range(plan.hours, "{:.2g}", " h")),
        ("GPU time", _range(plan.gpu_hours, "{:.2g}", " GPU-hours")),
        ("memory", _bytes(plan.memory_bytes)),
        ("disk", _bytes(plan.disk_bytes)),
    ]
    lines = [f"{name}: {text}" for name, text in shown if text]
    return [*lines, f"times from {plan.source}"] if plan.source else lines


def _bytes(value: "Range | None") -> str:
    scale, unit = byte_unit(value and value.high)
    return _range(value and value.times(scale), "{:.3g}", unit)


def _range(value: "Range | None", form: str, unit: str) -> str:
    if value is None:
        return ""
    low, high = form.format(value.low), form.format(value.high)
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def sweep_tables(result: "SweepResult", place: Path) -> Group:
    """Every run of a sweep, then what was chosen, held against random directions."""
    table = Table()
    places = list(result.runs[0].settings)
    for column in (*places, "verdict", "rho", "effect", "random directions", "shared units"):
        table.add_column(clean(column), overflow="fold", no_wrap=column == "verdict")
    for run in result.runs:
        row = result.row(run)
        null = [value for value in row.null if value is not None]
        table.add_row(
            *(clean(value) for value in run.settings.values()),
            run.verdict or "none",
            _number(run.rho),
            _number(row.effects.whole, "{:+z.2f}"),
            f"{min(null):+z.2f} to {max(null):+z.2f}" if null else "none",
            f"{run.shared} of {run.units}",
        )
    return _headed(table, "Exploratory sweep", *_chosen(result, place))


def _chosen(result: "SweepResult", place: Path) -> list[str]:
    """The choice in words: where it was made, where it was read, what chance makes of it."""
    from steerproof.run.commands.sweep import EXPLORATORY

    shared, units, seconds = result.shared
    lines = [f"{shared} of {units} units were shared, {duration(seconds)} of work not done again."]
    chosen = result.selection.chosen
    if chosen is None:
        return [*lines, "Nothing was chosen: fewer than two settings were measured whole."]
    for name, other, one in (
        ("first", "second", chosen.on_first),
        ("second", "first", chosen.on_second),
    ):
        where = ", ".join(f"{key}={value}" for key, value in one.setting.items())
        lines.append(
            f"Best on the {name} half of the questions: {where}, {one.there:+z.2f} there,"
            f" {one.held_out:+z.2f} on the {other}."
        )
    lines.append(
        f"Held-out effect: {chosen.held_out:+z.3f} (the best of all on all questions looks like"
        f" {chosen.best_of_all:+z.3f})."
    )
    held = sorted(one.held_out for one in result.selection.null)
    if held:
        lines.append(
            f"The same selection of {len(held)} random directions: {held[0]:+z.3f} to"
            f" {held[-1]:+z.3f}; rank p = {result.selection.p:.3f}."
        )
    else:
        lines.append("No random directions went through the same selection: nothing to compare.")
    return [*lines, EXPLORATORY, f"  table, figure: {place / 'results'}"]
