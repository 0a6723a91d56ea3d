"""`requests`: the cells of a run for an engine that steers per request."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from steerproof.engine.lora.peft_files import CONFIG, WEIGHTS
from steerproof.engine.sampling import row_seed
from steerproof.errors import ExperimentError, SteerproofError
from steerproof.exchange.requests import (
    ADAPTERS,
    FILE,
    VECTORS,
    AskedDirection,
    Sampling,
    request_lines,
    vector_file,
    why_not,
)
from steerproof.model.chat import ChatFormat, chat_ids, load_tokenizer
from steerproof.run.artefacts import directions
from steerproof.run.commands.session import Session
from steerproof.run.graph.environment import model_directory
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import adapter_unit, directions_unit
from steerproof.run.graph.survey import recorded
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.grid import Cell, samples, system_of
from steerproof.study.geometry import LayerGeometry, asked_by

_UNSAFE = re.compile(r"[^A-Za-z0-9._=+@^~-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What is to be written, and what an engine cannot do."""

    files: Mapping[str, bytes]
    """By path below the directory."""
    cells: int
    left_out: Mapping[str, str]
    """Why a cell is not among them, by its name."""


def requests_of(session: Session, only: str | None) -> Requests:
    """Every cell whose adapter and direction are there.

    Args:
        session: Of a run directory.
        only: A cell's name, or a beginning of names; None for all.

    Raises:
        ExperimentError: There is no such cell.
        ModelError: The tokenizer is not here.
    """
    gathering = _Gathering(session)
    for cell, count in samples(session.experiment).items():
        if only is None or cell.name.startswith(only):
            gathering.add(cell, count)
    if not gathering.cells and not gathering.left_out:
        raise ExperimentError(f"no cell is called {only}; see `steerproof status` for their names")
    lines = request_lines(gathering.asked, gathering.sampling)
    return Requests(
        files={**gathering.files, FILE: "".join(lines).encode()},
        cells=gathering.cells,
        left_out=gathering.left_out,
    )


class _Gathering:
    """The requests of cells, and the files that they name, each once."""

    def __init__(self, session: Session) -> None:
        experiment = session.experiment
        self._experiment = experiment
        self._finished = recorded(session.run)
        model = model_directory(experiment, session.place.directory, weights=False)
        self._chat = ChatFormat(
            tokenizer=load_tokenizer(model),
            context=2**31,  # what fits was seen to before the run
            system_role=experiment.model.system_role,
            template_options=experiment.model.template_options,
        )
        self._layers: dict[int, LayerGeometry] = {}
        drawn = experiment.generation
        self.sampling = Sampling(
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            max_tokens=drawn.max_new_tokens,
            stop_token_ids=(self._chat.end_of_turn,),
        )
        self.files: dict[str, bytes] = {}
        self.asked: list[AskedDirection] = []
        self.left_out: dict[str, str] = {}
        self.cells = 0

    def add(self, cell: Cell, count: int) -> None:
        """The completions of a cell, or why there are none."""
        try:
            adapter, vector = self._adapter(cell), self._vector(cell)
        except SteerproofError as error:
            self.left_out[cell.name] = str(error)
            return
        self.cells += 1
        self.asked += self._completions(cell, count, adapter, vector)

    def _completions(
        self, cell: Cell, count: int, adapter: str | None, vector: str | None
    ) -> Iterator[AskedDirection]:
        experiment = self._experiment
        system = system_of(experiment, cell)
        for question, text in enumerate(experiment.questions.evaluation):
            ids = chat_ids(self._chat, system=system, user=text)
            for sample in range(count):
                yield AskedDirection(
                    cell=cell.name,
                    question=question,
                    sample=sample,
                    seed=row_seed(experiment.seed, cell.name, question, sample),
                    prompt_ids=ids,
                    adapter=adapter,
                    vector=vector,
                )

    def _adapter(self, cell: Cell) -> str | None:
        if self._experiment.arm(cell.arm).untrained:
            return None
        unit = self._unit(adapter_unit(cell.adapter))
        folder = f"{ADAPTERS}/{cell.adapter.name}"
        self.files |= {f"{folder}/{name}": unit.read(name) for name in (CONFIG, WEIGHTS)}
        return folder

    def _vector(self, cell: Cell) -> str | None:
        asked = asked_by(cell)
        if asked is None:
            return None
        push = self._layer(asked.layer).asked(asked)
        reason = why_not(push)
        if reason is not None:
            raise ExperimentError(reason)
        content = vector_file(push)
        words = f"{asked.persona}.{asked.kind}.L{asked.layer}.{asked.strength}"
        name = f"{VECTORS}/{_UNSAFE.sub('_', words)}-{sha256(content).hexdigest()[:8]}.json"
        self.files[name] = content
        return name

    def _layer(self, layer: int) -> LayerGeometry:
        if layer not in self._layers:
            unit = self._unit(directions_unit(layer))
            self._layers[layer] = directions.from_unit(unit, self._experiment.drawing_seed)
        return self._layers[layer]

    def _unit(self, unit: UnitId) -> StoredUnit:
        if unit not in self._finished:
            raise ExperimentError(f"{unit} is not finished")
        return self._finished[unit]
