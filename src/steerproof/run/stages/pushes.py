"""The directions that earlier units wrote, as the pushes that a batch needs."""

from collections.abc import Mapping, Sequence

from steerproof.model.steering import Push
from steerproof.run.artefacts.directions import from_unit
from steerproof.run.driver.worker import Task
from steerproof.spec.strength import NONE, Strength
from steerproof.study.directions import Directions


class Pushes:
    """The pushes that a batch of units needs: one object for each direction and strength."""

    def __init__(self, directions: Mapping[int, tuple[Directions, float]]) -> None:
        """Start empty.

        Args:
            directions: Directions and baseline norm h_bar, by layer.
        """
        self._directions = directions
        self._pushes: dict[tuple[str, str, int, Strength], Push] = {}
        self._sizes: dict[Push | None, tuple[float, float]] = {None: (0.0, 0.0)}

    def push(self, kind: str, persona: str, layer: int | None, strength: Strength) -> Push | None:
        """A direction at a strength; None for none."""
        if layer is None or kind == "none" or strength == NONE:
            return None
        name = (kind, persona, layer, strength)
        if name not in self._pushes:
            directions, h_bar = self._directions[layer]
            vector = directions.vector(kind, persona)
            norm = float(vector.double().norm())
            number = strength.coefficient(h_bar=h_bar, norm=norm)
            self._pushes[name] = push = Push(layer=layer, vector=vector * number)
            self._sizes[push] = number, abs(number) * norm / h_bar
        return self._pushes[name]

    def coefficient(self, push: Push | None) -> float:
        """The number that a push's direction was multiplied by; 0.0 for none."""
        return self._sizes[push][0]

    def ratio(self, push: Push | None) -> float:
        """A push's `||c v|| / h_bar`; 0.0 for none."""
        return self._sizes[push][1]


def read_directions(tasks: Sequence[Task]) -> dict[int, tuple[Directions, float]]:
    """Every layer's directions and h_bar that some task reads, by layer."""
    units = {
        name: unit
        for task in tasks
        for name, unit in task.upstream.items()
        if name.kind == "directions"
    }
    layers: dict[int, tuple[Directions, float]] = {}
    for unit in units.values():
        directions, measured = from_unit(unit)
        layers[directions.layer] = (directions, measured.h_bar)
    return layers
