"""An order of things in which alike ones are neighbours: the leaves of a clustering, turned well.

Clusters are merged by the mean distance of their members (average linkage). That leaves which of
the two parts of a cluster comes first, everywhere; of all such orders the one is taken whose
neighbours are nearest to each other in sum (Bar-Joseph, Gifford and Jaakkola 2001).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_Square = Float[np.ndarray, "n n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    """Its members as they stood when it was made, and what its best orders cost."""

    number: int
    """The things are the first clusters; a merged one gets the next number."""
    members: Int[np.ndarray, " members"]
    costs: Float[np.ndarray, "members members"]
    """Least sum of neighbours' distances from one member at one end to another at the other;
    infinite where the two cannot be at the ends."""
    parts: "tuple[_Cluster, _Cluster] | None"


def alike_beside(distances: _Square) -> Int[np.ndarray, " n"]:
    """The order of least total distance between neighbours that the clustering allows.

    Args:
        distances: Symmetric, zero on the diagonal, none missing; one thing at least.

    Returns:
        Indices of the things. Of an order and its reverse, the one that begins in the part of the
        whole that was made first.
    """
    root = _clustered(distances)
    if root.parts is None:
        return root.members
    first = len(root.parts[0].members)  # one end is in either part
    start, end = np.unravel_index(
        np.argmin(root.costs[:first, first:]), (first, len(root.members) - first)
    )
    return np.array(_turned(root, int(start), first + int(end), distances))


def _clustered(distances: _Square) -> _Cluster:
    """Merge the two nearest clusters until one is left; the first of the two leads in it."""
    apart = distances.astype(float)
    np.fill_diagonal(apart, np.inf)
    clusters = [
        _Cluster(number=i, members=np.array([i]), costs=np.zeros((1, 1)), parts=None)
        for i in range(len(distances))
    ]
    for number in range(len(distances), 2 * len(distances) - 1):
        one, other = (int(i) for i in np.unravel_index(np.argmin(apart), apart.shape))
        sizes = len(clusters[one].members), len(clusters[other].members)
        mean = (sizes[0] * apart[one] + sizes[1] * apart[other]) / sum(sizes)
        first, second = sorted((clusters[one], clusters[other]), key=lambda part: part.number)
        apart[one], apart[:, one], apart[one, one] = mean, mean, np.inf
        apart = np.delete(np.delete(apart, other, axis=0), other, axis=1)
        clusters[one] = _joined(first, second, distances, number)
        del clusters[other]
    return clusters[0]


def _joined(first: _Cluster, second: _Cluster, distances: _Square, number: int) -> _Cluster:
    """Both in one, with the costs of all pairs of ends."""
    between = distances[np.ix_(first.members, second.members)]
    to_second = (first.costs[:, :, None] + between).min(axis=1)
    across = (to_second[:, :, None] + second.costs).min(axis=1)
    size = len(first.members)
    members = np.concatenate([first.members, second.members])
    costs = np.full((len(members), len(members)), np.inf)
    costs[:size, size:], costs[size:, :size] = across, across.T
    return _Cluster(number=number, members=members, costs=costs, parts=(first, second))


def _turned(cluster: _Cluster, start: int, end: int, distances: _Square) -> list[int]:
    """The members in the best order from one to the other, given by their places in it."""
    if cluster.parts is None:
        return cluster.members.tolist()
    first, second = cluster.parts
    size = len(first.members)
    if start >= size:
        return _turned(cluster, end, start, distances)[::-1]
    end -= size
    costs = first.costs[start][:, None] + distances[np.ix_(first.members, second.members)]
    costs = costs + second.costs[:, end]
    meet, go_on = np.unravel_index(np.argmin(costs), costs.shape)
    before = _turned(first, start, int(meet), distances)
    return before + _turned(second, int(go_on), end, distances)
