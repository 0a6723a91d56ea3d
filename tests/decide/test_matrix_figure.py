"""The matrix of adapters and directions as a picture, from plain arrays."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from steerproof.decide.report.figures.likeness import alike_beside
from steerproof.decide.report.figures.matrix import (
    MatrixValues,
    matrix,
    matrix_cosines,
    matrix_sheet,
    tuning,
)
from steerproof.decide.report.figures.palette import INK, ORANGE

NAMES = ("a_one", "b_one", "a_two", "b_two", "c_one")
# Two pairs that point the same way and one alone: the pairs must become neighbours.
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0, 1.0]])
UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
SVG = "{http://www.w3.org/2000/svg}"


def given(**changes) -> MatrixValues:
    values = np.full((5, 5), 0.25)
    np.fill_diagonal(values, 1.0)
    negatives = np.zeros((5, 5), dtype=bool)
    negatives[0, 1] = negatives[3, 4] = True
    values[negatives] = 0.0
    fields = {
        "personas": NAMES,
        "values": values,
        "negatives": negatives,
        "cosines": UNIT @ UNIT.T,
        "quantity": "firing rate",
    }
    return MatrixValues(**{**fields, **changes})


def tips(drawing) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(drawing.svg).iter(f"{SVG}title")][1:]


def test_alike_directions_are_neighbours_and_everyone_is_there_once():
    order = [NAMES[i] for i in given().order]
    assert sorted(order) == sorted(NAMES)
    for pair in ("a", "b"):
        places = [order.index(f"{pair}_{number}") for number in ("one", "two")]
        assert abs(places[0] - places[1]) == 1


def test_without_cosines_the_order_is_kept_and_there_is_neither_angle_nor_curve():
    bare = given(cosines=None)
    assert bare.order.tolist() == [0, 1, 2, 3, 4]
    assert matrix_cosines(bare) is tuning(bare) is matrix_sheet(bare) is None
    assert matrix(bare).name == "matrix"


def test_every_cell_says_its_number_and_whose_it_is():
    said = tips(matrix(given()))
    assert len(said) == 25
    assert "adapter a one, direction of a one: 1.00" in said
    assert "adapter a one, direction of b one: 0.00" in said


def test_own_directions_and_trained_negatives_are_framed_each_in_their_way():
    svg = matrix(given()).svg.partition("</desc>")[2]
    framed = re.findall(r"<path[^>]*stroke-width=\"1.4\"[^>]*>", svg)
    assert sum(INK in path and "dasharray" not in path for path in framed) == 5
    assert sum(ORANGE in path and "dasharray" in path for path in framed) == 2


def test_a_cell_that_was_not_measured_is_a_dash_and_has_no_number():
    values = given().values.copy()
    values[2, 4] = np.nan
    said = tips(matrix(given(values=values)))
    assert len(said) == 24
    assert not [words for words in said if "nan" in words]


def test_margins_are_shown_in_their_own_unit():
    drawn = matrix(given(values=given().values * 12 - 3, quantity="margin (nats)"))
    assert "margin (nats)" in drawn.title
    assert "adapter a one, direction of a one: 9.00" in tips(drawn)


def test_the_tuning_curve_tells_the_three_classes_apart():
    drawn = tuning(given(), 0.5)
    assert drawn is not None
    for label in ("never seen", "trained to ignore", "own"):
        assert f">{label}<" in drawn.svg
    assert "Rank correlation within adapters +0.50." in drawn.description


@pytest.mark.parametrize("draw", [matrix, matrix_cosines, tuning, matrix_sheet])
def test_the_same_arrays_give_the_same_bytes(draw):
    assert draw(given()) == draw(given())


def orders(tree: list) -> list[list[int]]:
    """Every order of its leaves that a tree of two parts everywhere allows."""
    if isinstance(tree, int):
        return [[tree]]
    parts = [orders(part) for part in tree]
    turned = [(parts[0], parts[1]), (parts[1], parts[0])]
    return [[*one, *other] for left, right in turned for one in left for other in right]


def tree_of(distances: np.ndarray) -> list:
    """The clustering by mean distance, as scipy makes it."""
    nodes: list = list(range(len(distances)))
    for one, other, *_ in linkage(squareform(distances, checks=False), "average").tolist():
        nodes.append([nodes[int(one)], nodes[int(other)]])
    return nodes[-1]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_alike_ones_are_neighbours_in_the_shortest_order_of_the_clustering(count):
    points = np.random.default_rng(count).normal(size=(count, 3))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    possible = orders(tree_of(distances)) if count > 1 else [[0]]
    shortest = min(distances[order[:-1], order[1:]].sum() for order in possible)
    found = alike_beside(distances).tolist()
    assert found in possible
    assert distances[found[:-1], found[1:]].sum() == pytest.approx(shortest)
