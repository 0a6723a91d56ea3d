from pathlib import Path

import pytest

from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.rates import (
    cell_rates,
    lookup,
    table_of,
)
from steerproof.decide.analysis.rates_csv import COLUMNS, format_rates, read_rates
from steerproof.errors import ExperimentError
from steerproof.spec.grid import CellKind
from tests.decide.tables import RISING, TEN, rows_of, steered, ten_personas

HEADER = ",".join(COLUMNS)
BRIDGE = [f"C,{name},persona,none,,none,0,,{i + 1},100" for i, name in enumerate(TEN)]


def read(tmp_path: Path, lines: list[str], header: str = HEADER):
    path = tmp_path / "rates.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return read_rates(path, ten_personas())


def problem(tmp_path: Path, lines: list[str], header: str = HEADER) -> str:
    with pytest.raises(ExperimentError) as caught:
        read(tmp_path, lines, header)
    return str(caught.value).replace(str(tmp_path / "rates.csv"), "rates.csv")


def test_a_written_table_reads_back_equal(tmp_path):
    kinds = (CellKind(arm="C", prompt="persona"), steered("A", "ratio=-0.2"), steered("A", "c=+2"))
    rows = [row for kind in kinds for row in rows_of(kind, dict(zip(TEN, RISING, strict=True)))]
    path = tmp_path / "rates.csv"
    path.write_text(format_rates(rows))
    assert read_rates(path, ten_personas()) == table_of(rows)
    assert path.read_text().splitlines()[0] == HEADER


def test_columns_may_come_in_any_order_and_lines_may_end_as_on_windows(tmp_path):
    order = COLUMNS[::-1]
    lines = [",".join(line.split(",")[::-1]) for line in BRIDGE]
    path = tmp_path / "rates.csv"
    path.write_bytes(("\ufeff" + "\r\n".join([",".join(order), *lines])).encode())
    table = read_rates(path, ten_personas())
    assert len(table.cells) == 10


def test_questions_are_put_in_natural_order(tmp_path):
    lines = [f"A,p0,neutral,none,,none,0,{q},{q},20" for q in (10, 2, 0)]
    table = read(tmp_path, [*BRIDGE, *lines])
    cell = lookup(table, CellKind(arm="A", prompt="neutral"), "p0")
    assert cell is not None
    assert (cell.questions, cell.fired) == (("0", "2", "10"), (0, 2, 10))
    assert cell.rate == 12 / 60


def test_a_cell_that_is_not_in_the_table_is_not_zero(tmp_path):
    table = read(tmp_path, [*BRIDGE, "A,p0,neutral,none,,none,0,,0,100"])
    rates = cell_rates(table, CellKind(arm="A", prompt="neutral"), TEN)
    assert rates[0] == 0
    assert all(rate != rate for rate in rates[1:])


def test_two_spellings_of_a_strength_are_one_cell(tmp_path):
    line = "A,p0,neutral,centroid,1,{},2,{},1,5"
    table = read(tmp_path, [*BRIDGE, line.format("c=+2", 0), line.format("c=+2.0", 1)])
    cell = lookup(table, steered("A", "c=+2"), "p0")
    assert cell is not None
    assert cell.total == (5, 5)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A,p0,neutral,none,,none,0,,6,5", "rates.csv:12: fired 6 is more than total 5"),
        ("A,p0,neutral,none,,none,0,,-1,5", "rates.csv:12: fired '-1' must be a whole number"),
        ("A,p0,neutral,none,,none,0,,1.5,5", "rates.csv:12: fired '1.5' must be a whole number"),
        ("A,p0,neutral,none,,none,0,,0,0", "rates.csv:12: total is 0; a cell that was not"),
        ("A,p0,neutral,none,,none,0,,,5", "rates.csv:12: fired '' must be a whole number"),
        ("A,pO,neutral,none,,none,0,,1,5", "rates.csv:12: persona 'pO' is not one of p0, p1"),
        ("D,p0,neutral,none,,none,0,,1,5", "rates.csv:12: arm 'D' is not one of A, B, C"),
        ("A,p0,Neutral,none,,none,0,,1,5", "did you mean 'neutral'?"),
        ("A,p0,neutral,centriod,1,c=+2,2,,1,5", "did you mean 'centroid'?"),
        ("A,p0,neutral,none,1,none,0,,1,5", "layer '1' without a direction; leave it empty"),
        ("A,p0,neutral,centroid,,c=+2,2,,1,5", "direction 'centroid' needs a layer"),
        ("A,p0,neutral,centroid,1,none,0,,1,5", "either both are 'none' or neither"),
        ("A,p0,neutral,centroid,1,c=2,2,,1,5", "rates.csv:12: strength 'c=2' must be"),
        ("A,p0,neutral,centroid,1,c=+2,3,,1,5", "coefficient 3 with strength c=+2 must be 2"),
        ("A,p0,neutral,centroid,1,ratio=-0.2,3,,1,5", "has not the sign of strength ratio=-0.2"),
        ("A,p0,neutral,centroid,1,c=+2,inf,,1,5", "coefficient 'inf' must be a finite number"),
        ("A,p0,neutral,none,,none,0,,1", "rates.csv:12: 9 fields, but the header has 10"),
        ("C,p0,persona,none,,none,0,,7,100", "rates.csv:12: cell C.p0.persona.none is already"),
        ("C,p0,persona,none,,none,0,3,7,100", "has both a total and questions (line 2)"),
        ('A,"p0,neutral,none', "not CSV"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, expected):
    assert expected in problem(tmp_path, [*BRIDGE, line])


def test_a_question_counted_twice_is_named_with_both_lines(tmp_path):
    line = "A,p0,neutral,none,,none,0,4,1,5"
    text = problem(tmp_path, [*BRIDGE, line, line])
    assert "rates.csv:13: cell A.p0.neutral.none, question '4' is already on line 12" in text


def test_one_cell_with_two_coefficients_is_refused(tmp_path):
    line = "A,p0,neutral,centroid,1,ratio=+0.2,{},{},1,5"
    text = problem(tmp_path, [*BRIDGE, line.format(1.5, 0), line.format(1.6, 1)])
    assert "rates.csv:13: " in text
    assert "coefficient 1.6 here and 1.5 on line 12" in text


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path):
    text = problem(tmp_path, ["X,p0,neutral,none,,none,0,,1,5", *BRIDGE, "A,p0,neutral,none,,none"])
    lines = text.splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "13"]


def test_wrong_columns_are_named(tmp_path):
    text = problem(tmp_path, BRIDGE, HEADER.replace("fired", "hits").replace("total", "arm"))
    assert "rates.csv:1: missing columns: 'fired', 'total'" in text
    assert "rates.csv:1: unknown columns: 'hits'" in text
    assert "rates.csv:1: repeated columns: 'arm'" in text


def test_an_empty_file_has_no_columns(tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text("")
    with pytest.raises(ExperimentError, match=r"rates\.csv:1: missing columns"):
        read_rates(path, ten_personas())


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "rates.csv"
    path.write_bytes(f"{HEADER}\n{BRIDGE[0]}\n".encode() + "é".encode("latin-1") + b"\n")
    with pytest.raises(ExperimentError, match=r"rates\.csv:3: not UTF-8 \(byte 0xe9\)"):
        read_rates(path, ten_personas())


def test_a_file_that_is_not_there_is_an_error_of_the_user(tmp_path):
    with pytest.raises(ExperimentError, match="cannot be read: No such file"):
        read_rates(tmp_path / "none.csv", ten_personas())


def test_a_table_without_any_bridge_is_refused(tmp_path):
    text = problem(tmp_path, ["A,p0,neutral,none,,none,0,,1,5"])
    assert "rates.csv:1: no bridge" in text


def test_a_persona_whose_bridge_failed_costs_the_others_nothing(tmp_path):
    table = read(tmp_path, [*BRIDGE[1:], "A,p0,neutral,none,,none,0,,1,5"])
    assert len(table.cells) == 10
    found = analyze(table, ten_personas())
    assert found.bridge["p0"] is None
    assert found.arms["A"].primary.missing[0] == "p0"


def test_whole_numbers_with_a_point_are_whole(tmp_path):
    plain = read(tmp_path, [*BRIDGE, "A,p0,neutral,centroid,1,c=+2,2,,1,5"])
    pointed = read(tmp_path, [*BRIDGE, "A,p0,neutral,centroid,1.0,c=+2,2.0,,1.0,5.0"])
    assert plain == pointed


@pytest.mark.parametrize(
    ("mark", "first", "expected"),
    [
        (";", "", "rates.csv:1: the columns are separated by semicolons; save the table as CSV"),
        ("\t", "", "rates.csv:1: the columns are separated by tabs"),
        (";", "sep=;\n", "rates.csv:1: the first line says how the table is separated"),
    ],
)
def test_a_spreadsheets_separators_are_named(tmp_path, mark, first, expected):
    path = tmp_path / "rates.csv"
    path.write_text(first + "\n".join([HEADER, *BRIDGE]).replace(",", mark) + "\n")
    with pytest.raises(ExperimentError) as raised:
        read_rates(path, ten_personas())
    assert expected in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_persona_without_any_row_is_missing_not_malformed(tmp_path):
    assert len(read(tmp_path, BRIDGE[1:]).cells) == 9
