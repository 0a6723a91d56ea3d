"""The directions that earlier units wrote, as the pushes that a batch needs."""

from collections.abc import Mapping, Sequence

from safetensors.torch import load as load_tensors

from steerproof.model.steering import Push
from steerproof.run.driver.worker import Task
from steerproof.run.stages.files import read_json
from steerproof.spec.strength import NONE, Strength
from steerproof.study.directions import Directions, from_tensors


class Pushes:
    """The pushes that a batch of units needs, each once.

    Slot s of the steering table is `table[s - 1]`; slot 0 is no push.
    """

    def __init__(self, directions: Mapping[int, tuple[Directions, float]]) -> None:
        """Start empty.

        Args:
            directions: Directions and baseline norm h_bar, by layer.
        """
        self._directions = directions
        self._slots: dict[tuple[str, str, int, Strength], int] = {}
        self.table: list[Push] = []
        self.coefficients: list[float] = []
        self.ratios: list[float] = []

    def slot(self, kind: str, persona: str, layer: int | None, strength: Strength) -> int:
        """The slot of a direction at a strength; 0 for none."""
        if layer is None or kind == "none" or strength == NONE:
            return 0
        name = (kind, persona, layer, strength)
        if name not in self._slots:
            directions, h_bar = self._directions[layer]
            vector = directions.vector(kind, persona)
            norm = float(vector.double().norm())
            number = strength.coefficient(h_bar=h_bar, norm=norm)
            self.table.append(Push(layer=layer, vector=vector * number))
            self.coefficients.append(number)
            self.ratios.append(abs(number) * norm / h_bar)
            self._slots[name] = len(self.table)
        return self._slots[name]

    def coefficient(self, slot: int) -> float:
        """The number that the slot's direction was multiplied by; 0.0 for slot 0."""
        return self.coefficients[slot - 1] if slot else 0.0

    def ratio(self, slot: int) -> float:
        """The slot's `||c v|| / h_bar`; 0.0 for slot 0."""
        return self.ratios[slot - 1] if slot else 0.0


def read_directions(tasks: Sequence[Task]) -> dict[int, tuple[Directions, float]]:
    """Every layer's directions and h_bar that some task reads, by layer."""
    units = {
        name: unit
        for task in tasks
        for name, unit in task.upstream.items()
        if name.startswith("directions/")
    }
    found: dict[int, tuple[Directions, float]] = {}
    for unit in units.values():
        geometry = read_json(unit, "geometry.json")
        directions = from_tensors(
            load_tensors(unit.read("directions.safetensors")),
            layer=geometry["layer"],
            personas=tuple(geometry["personas"]),
        )
        found[directions.layer] = (directions, geometry["h_bar"])
    return found
