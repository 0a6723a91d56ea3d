"""The size of what is written: what a reader can hold in mind, held by a test.

A record (a frozen dataclass, a model of the experiment's file) has as many fields as its file has;
everything else that keeps state has few. A kernel holds its numbers in registers, and may be a
little longer.
"""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "steerproof"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in FILES}
FORMATS = {
    "Experiment": "the experiment's file",
    "Training": "its `training`",
    "Grid": "an entry of its `cells`",
    "AnalysisSettings": "its `analysis`",
    "AnswerSettings": "its `answers`",
    "Cell": "cell.json and a cell's key",
    "CellKind": "the same without a persona",
    "_Line": "a line of rates.csv",
    "Analysis": "analysis.json",
    "StrengthResult": "analysis.json, an arm at a strength",
    "SignCheck": "analysis.json, a control",
    "PairedComparison": "analysis.json, a comparison",
    "ThreeAnswers": "answers.json",
    "DirectionAnswer": "answers.json, `direction`",
    "MatrixResult": "answers.json, a matrix",
    "Point": "what `power --json` says of a correlation",
    "RateModel": "what `power --json` says that it assumes",
    "TrainedAs": "steerproof.json beside an adapter",
    "Provenance": "the header of a direction's file",
    "Attempt": "a row of the ledger",
    "Entry": "a row of the board",
    "PackedRows": "what a kernel takes of a line",
    "Decode": "what a kernel takes of a step",
}
"""The classes of more than ten attributes, each with what lists them."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes(kind: type | tuple) -> Iterator[tuple[str, ast.AST]]:
    for path, tree in TREES.items():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, kind))


def lines(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def code_lines(function: Function) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def attributes(node: ast.ClassDef) -> set[str]:
    """What a class names in its body, and what its methods put on `self`."""
    kept = {
        place.attr
        for place in ast.walk(node)
        if isinstance(place, ast.Attribute)
        and isinstance(place.ctx, ast.Store)
        and isinstance(place.value, ast.Name)
        and place.value.id == "self"
    }
    fields = (part.target for part in node.body if isinstance(part, ast.AnnAssign))
    return kept | {target.id for target in fields if isinstance(target, ast.Name)}


def test_no_file_is_longer_than_400_lines():
    long = {
        path.name: count for path in FILES if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long


@pytest.mark.parametrize(("kernels", "most"), [(False, 40), (True, 50)])
def test_no_function_has_more_lines_of_code_than_a_screen(kernels, most):
    long = [
        f"{path}: {node.name} has {code_lines(node)}"
        for path, node in nodes(Function)
        if path.endswith("kernels.py") == kernels and code_lines(node) > most
    ]
    assert not long


def test_a_usual_function_is_short():
    lengths = sorted(lines(node) for _, node in nodes(Function))
    assert lengths[len(lengths) // 2] <= 9
    assert lengths[len(lengths) * 9 // 10] <= 26


def test_a_stage_reads_its_units_calls_the_study_and_writes_bytes_in_30_lines():
    stages = {
        path: code_of_file(path, tree)
        for path, tree in TREES.items()
        if path.startswith("run/stages/") and Path(path).stem in functions_of(tree)
    }
    assert len(stages) == 9
    assert not {path: count for path, count in stages.items() if count > 30}


def functions_of(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, Function)}


def code_of_file(path: str, tree: ast.Module) -> int:
    """Lines of a file that are neither blank nor comment, docstring or import."""
    beside = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    left_out = {n for node in beside for n in range(node.lineno, node.end_lineno + 1)}
    written = enumerate((SOURCE / path).read_text().splitlines(), start=1)
    return sum(
        number not in left_out and line.strip() != "" and not line.strip().startswith("#")
        for number, line in written
    )


def test_no_class_is_longer_than_150_lines():
    long = {f"{path}: {node.name}" for path, node in nodes(ast.ClassDef) if lines(node) > 150}
    assert not long


def test_nothing_keeps_more_than_ten_things_in_mind_but_what_a_format_lists():
    many = {node.name for _, node in nodes(ast.ClassDef) if len(attributes(node)) > 10}
    assert many == FORMATS.keys()


def test_a_class_name_stands_for_one_thing():
    places: dict[str, list[str]] = {}
    for path, node in nodes(ast.ClassDef):
        places.setdefault(node.name, []).append(path)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_every_name_that_is_read_is_one_that_exists():
    """What ruff would say, were its rule not blind to the names of axes in annotations."""
    unknown = [
        f"{path}:{node.lineno}: {node.id}"
        for path, tree in TREES.items()
        for names in [known_names(tree)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in names
    ]
    assert not unknown


def known_names(tree: ast.AST) -> set[str]:
    names = {*dir(builtins), "__file__", "__name__", "__doc__", "__path__"}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                names.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update((one.asname or one.name).partition(".")[0] for one in aliases)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
    return names


def test_few_places_look_something_up_by_a_text():
    """Records are what everybody reads; what is left are the libraries' own mappings."""
    places = [
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path, node in nodes(ast.Subscript)
        if path.split("/")[0] in ("run", "decide", "board")
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and isinstance(node.ctx, ast.Load)
        and not ast.unparse(node).startswith("Literal")
    ]
    assert len(places) < 40, places
