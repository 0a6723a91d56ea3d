"""Measuring: the cells of an experiment in one pool, each given back when its last row has ended.

Steering that silently does nothing, or an adapter that is not what it should be, must not become a
rate. So a fixed text is scored under every cell first, in the pool and alone (the canaries), and
the push that arrived is compared with the one that was asked for. Whatever fails is the failure of
its own cell; the others are measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from steerproof.engine.canary import Canary, fixed_text
from steerproof.engine.generate import Engine
from steerproof.engine.lora.weights import LoraWeights
from steerproof.engine.rows import Drawn as Drawn
from steerproof.engine.rows import Row, RowFault
from steerproof.engine.sampling import row_seed
from steerproof.errors import SteeringError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.model.push import Push
from steerproof.model.spelt import spelt
from steerproof.model.steering import SlotAudit
from steerproof.spec.experiment import Generation
from steerproof.spec.grid import Cell
from steerproof.spec.strength import PUSH_TOLERANCE
from steerproof.study.halving import in_halves
from steerproof.study.measured import Completion, MeasuredCell
from steerproof.study.told import NOBODY, TOLD_SECONDS, Told, completions


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCell:
    """A cell with all that its completions depend on."""

    cell: Cell
    system: str
    """System prompt."""
    questions: tuple[str, ...]
    samples: int
    """Completions per question."""
    seed: int
    """The experiment's."""
    early_tokens: int
    """The head of a completion, of which is said how many characters it has."""
    adapter: LoraWeights | None = None
    """None for the base model itself."""
    push: Push | None = None
    """The same object wherever the same push is meant."""

    @property
    def rows(self) -> int:
        """Completions in all."""
        return len(self.questions) * self.samples


Outcome = MeasuredCell | SteerproofError
"""What became of a cell."""


def measure(
    base: Base, cells: Sequence[AskedCell], settings: Generation, told: Told = NOBODY
) -> Iterator[tuple[AskedCell, Outcome]]:
    """Draw and check the completions of cells, mixed in one pool.

    Args:
        base: The frozen model, nothing attached.
        cells: Each of another name; those of one adapter are best given together.
        settings: Temperature, nucleus and length.
        told: How far that is.

    Yields:
        Each cell as its last completion ends, with the error if it could not be measured.
    """
    rows: dict[str, list[Row]] = {}
    sound: list[AskedCell] = []
    for asked in cells:
        try:
            rows[asked.cell.name] = rows_of(base, asked, settings)
            sound.append(asked)
        except SteerproofError as error:
            yield asked, error

    def together(some: Mapping[str, AskedCell]) -> Iterator[tuple[str, Outcome]]:
        return _together(base, some, rows, settings, told)

    by_name = {asked.cell.name: asked for asked in sound}
    for name, outcome in in_halves(by_name, together):
        yield by_name[name], outcome


def rows_of(base: Base, asked: AskedCell, settings: Generation) -> list[Row]:
    """The rows of a cell; a row's text depends on nothing else.

    Raises:
        ModelError: A prompt does not fit into the context, or the template drops it.
    """
    name, rows = asked.cell.name, []
    for question, text in enumerate(asked.questions):
        prompt = chat_ids(
            base.chat, system=asked.system, user=text, reserve=settings.max_new_tokens
        )
        rows += [
            Row(
                cell=name,
                question=question,
                sample=sample,
                seed=row_seed(asked.seed, name, question, sample),
                prompt_ids=prompt,
                adapter=asked.adapter,
                push=asked.push,
            )
            for sample in range(asked.samples)
        ]
    return rows


def _together(
    base: Base,
    by_name: Mapping[str, AskedCell],
    rows: Mapping[str, Sequence[Row]],
    settings: Generation,
    told: Told,
) -> Iterator[tuple[str, Outcome]]:
    told.phase("checking adapters and pushes")
    cells = list(by_name.values())
    engine = _engine(base, cells, rows)
    canaries: dict[str, Canary] = {}
    failed = {fault.row.cell: fault.error for fault in engine.faults}
    for name, seen in engine.canaries(fixed_text(base, cells[0].questions)).items():
        if isinstance(seen, Canary):
            canaries[name] = seen
        else:
            failed[name] = seen
    for name, error in failed.items():
        canaries.pop(name, None)
        yield name, error
    if failed:
        engine = _engine(base, [by_name[name] for name in canaries], rows)
    done: dict[str, list[Drawn]] = {name: [] for name in canaries}
    told.phase("")
    counted = completions(told, sum(by_name[name].rows for name in canaries))
    for ended in engine.generate(settings, on_progress=counted, every=TOLD_SECONDS):
        name = ended.row.cell
        if name not in done:  # Another of its rows could not be completed.
            continue
        if isinstance(ended, RowFault):
            del done[name]
            yield name, ended.error
            continue
        asked = by_name[name]
        done[name].append(ended)
        if len(done[name]) == asked.rows:
            whole = completions_of(base, done.pop(name), asked.early_tokens)
            yield name, _outcome(asked, whole, engine, canaries[name])


def _engine(base: Base, cells: Sequence[AskedCell], rows: Mapping[str, Sequence[Row]]) -> Engine:
    mixed = [row for asked in cells for row in rows[asked.cell.name]]
    if any(asked.push is not None and asked.push.tokens != "all" for asked in cells):
        # Such a push acts in few forward passes: none of them may go unmeasured.
        return Engine(base, mixed, audit_every=1)
    return Engine(base, mixed)


def _outcome(
    asked: AskedCell, done: Sequence[Completion], engine: Engine, canary: Canary
) -> Outcome:
    """The measured cell, or the error that its push was not what was asked for."""
    push = asked.push
    arrived = () if push is None else engine.audit(push)
    fault = push and _fault(asked.cell.name, push, arrived)
    return fault or MeasuredCell(
        cell=asked.cell,
        **_pushed(push, arrived),
        canary=asdict(canary),
        completions=tuple(sorted(done, key=lambda one: (one.question, one.sample))),
    )


def _pushed(push: Push | None, arrived: Sequence[SlotAudit]) -> dict[str, float | None]:
    """How hard a cell was pushed, as its record has it; at several layers, at the first."""
    if push is None:
        none = {"achieved_norm": None, "token_ratio": None}
        return {"coefficient": 0.0, "ratio": 0.0, "asked_norm": 0.0, **none}
    return {
        "coefficient": push.coefficient,
        "ratio": None if push.ratio is None else abs(push.ratio),
        "asked_norm": None if push.removes else float(push.vector.norm()),
        "achieved_norm": arrived[0].push_norm,
        "token_ratio": arrived[0].ratio,
    }


def _fault(name: str, push: Push, arrived: Sequence[SlotAudit]) -> SteeringError | None:
    """What is wrong with the push that arrived; None if nothing is."""
    for part, seen in zip(push.parts, arrived, strict=True):
        if part.removes:  # How much that is depends on the residual: the canary has seen to it.
            continue
        asked = float(part.vector.norm())
        if seen.push_norm is None or abs(seen.push_norm / asked - 1) > PUSH_TOLERANCE:
            return SteeringError(
                f"{name}: a push of norm {asked:.4g} was asked for, but {seen.push_norm} arrived "
                f"at layer {part.layer}; load the model in float32, or check that the block's "
                "output is the residual stream"
            )
    return None


def completions_of(base: Base, drawn: Sequence[Drawn], early: int) -> list[Completion]:
    """What rows became, as text.

    Args:
        base: Whose tokenizer decodes it.
        drawn: What was drawn, in any order, which is kept.
        early: Tokens of a head.
    """
    texts = spelt(base.tokenizer, [done.token_ids for done in drawn])
    cut = [i for i, done in enumerate(drawn) if len(done.token_ids) > early]
    begun = spelt(base.tokenizer, [drawn[i].token_ids[:early] for i in cut])
    heads = dict(zip(cut, begun, strict=True))
    return [
        Completion(
            question=done.row.question,
            sample=done.row.sample,
            seed=done.row.seed,
            text=text,
            token_ids=done.token_ids,
            finish=done.finish,
            early_chars=len(heads.get(i, text)),
        )
        for i, (done, text) in enumerate(zip(drawn, texts, strict=True))
    ]
