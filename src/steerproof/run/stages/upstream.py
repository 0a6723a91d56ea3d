"""What earlier units wrote, read once however many tasks of an order need it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from steerproof.engine.lora.peft_files import CONFIG, WEIGHTS, read_peft
from steerproof.engine.lora.weights import LoraWeights
from steerproof.model.base import Base
from steerproof.run.artefacts import directions
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.manifest import StoredUnit
from steerproof.study.geometry import LayerGeometry, pushes_of

T = TypeVar("T")
_HASHING = 8
"""Threads."""
_READ: "WeakKeyDictionary[nn.Module, dict[tuple[str, str], LoraWeights]]" = WeakKeyDictionary()
"""Of each model the adapters that this process has read, by the hashes of their two files: an order
needs those of the last. Their numbers lie in files that are mapped, so the system can have that
memory back."""


def units_of(task: Task, kind: str) -> list[StoredUnit]:
    """The finished units of a kind that a task reads."""
    return [stored for unit, stored in task.upstream.items() if unit.kind == kind]


class Upstream:
    """Geometry and adapters of the tasks of one order; equal units are equal objects."""

    def __init__(self, base: Base, seed: int) -> None:
        """Nothing is read yet.

        Args:
            base: What adapters are read for.
            seed: What fresh random directions are drawn from.
        """
        self._base, self._seed = base, seed
        self._layers: dict[int, LayerGeometry] = {}
        self._read_layers: set[Path] = set()
        self._adapters: dict[Path, LoraWeights] = {}
        self.push = pushes_of(self._layers)

    def directions(self, task: Task) -> None:
        """Read the directions that a task reads, for `push`.

        Raises:
            IntegrityError: A file is not what its manifest says.
        """
        for stored in units_of(task, "directions"):
            if stored.directory not in self._read_layers:
                geometry = directions.from_unit(stored, self._seed)
                self._layers.setdefault(geometry.layer, geometry)
                self._read_layers.add(stored.directory)

    def adapter(self, task: Task) -> LoraWeights | None:
        """The adapter that a task reads; None if it reads none.

        Raises:
            IntegrityError: A file is not what its manifest says.
            ModelError: It is no adapter of this model.
        """
        for stored in units_of(task, "adapter"):
            if stored.directory not in self._adapters:
                self._adapters[stored.directory] = self._read(stored)
            return self._adapters[stored.directory]
        return None

    def _read(self, stored: StoredUnit) -> LoraWeights:
        for name in (CONFIG, WEIGHTS):
            stored.path(name)
        files, known = stored.manifest.files, _READ.setdefault(self._base.model, {})
        content = files[CONFIG].sha256, files[WEIGHTS].sha256
        if content not in known:
            known[content] = read_peft(stored.directory, self._base)
        return known[content]


def _hash_adapters(tasks: Iterable[Task]) -> None:
    """Hash the adapters of tasks, several at once; what is wrong with one is told when it is read.

    They are read one after another: each of an adapter's hundreds of matrices takes Python's lock,
    for which threads that read at once would wait.
    """
    threads = min(_HASHING, torch.get_num_threads())
    if threads < 2:
        return
    asked = {one.directory: one for task in tasks for one in units_of(task, "adapter")}

    def hashed(stored: StoredUnit) -> None:
        with suppress(Exception):
            stored.path(WEIGHTS)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hashed, asked.values()))


def pooled(
    tasks: Sequence[Task],
    upstream: Upstream,
    read: Callable[[Task, Upstream], T],
    study: Callable[[Mapping[UnitId, T]], Outcomes],
) -> Outcomes:
    """What each task reads, then one call of the study for all that could be read.

    Args:
        tasks: Those of one order.
        upstream: Has the directions of a task when that task is read.
        read: Makes of a task what the study is asked for; its error is that unit's alone.
        study: Does everything that was read, by unit.
    """
    asked: dict[UnitId, T] = {}
    if tasks:
        tasks[0].teller.phase("reading what earlier units made")
        _hash_adapters(tasks)
    for task in tasks:
        try:
            upstream.directions(task)
            asked[task.unit] = read(task, upstream)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this unit's
            yield task.unit, error
    if asked:
        tasks[0].teller.phase("")
    yield from study(asked)
