"""What a run needs, in one list: asked by `run`, `lock`, `plan` and `doctor` beforehand.

The model's files and kind, the tokenizer and its template, every prompt, given answers and given
adapters. All of it is known beforehand, and needs no weights: what would fail hours into a run is
refused here, under the name of the field or file that it comes from.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerproof.errors import ExperimentError, ModelError
from steerproof.extras import require_engine
from steerproof.garbage import importing
from steerproof.limits import whole_file
from steerproof.model.files import check_files, read_config
from steerproof.run.graph.environment import Place, model_directory, model_path
from steerproof.run.graph.graph import Graph
from steerproof.run.stages.given import answer_lines, read_answers
from steerproof.run.store.store import unit_directory
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import adapters, cells
from steerproof.study.readouts.load import text_readout
from steerproof.text import clean

if TYPE_CHECKING:
    from steerproof.engine.fit import Kind
    from steerproof.model.chat import ChatFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A prompt that some unit will make."""

    field: str
    """Whose question it asks, as the experiment's file names it."""
    system: str
    question: str
    new_tokens: int = 0
    """Tokens that must fit after it."""
    limit: str = ""
    """The field that says so."""


def needs_model(graph: Graph, run: Path) -> bool:
    """Whether there is anything to do with the model: a finished run needs none."""
    # A directory without any file of a model gives units that hash none.
    modelled = [unit.id for unit in graph.units.values() if unit.environment.model]
    done = (unit_directory(run, id_, graph.keys[id_]).is_dir() for id_ in modelled)
    return not modelled or not all(done)


def check_runnable(experiment: Experiment, place: Place, graph: Graph, run: Path) -> bool:
    """Refuse a run that cannot work.

    Returns:
        As `needs_model`.

    Raises:
        ModelError, SteeringError, ExperimentError: As `check_experiment`.
    """
    needed = needs_model(graph, run)
    if needed:
        check_experiment(experiment, place)
    return needed


def check_numbers(experiment: Experiment, place: Place) -> None:
    """Refuse a base model whose weights are NaN or infinite, before its hash is registered.

    All of them are read once, as they were to be hashed: 0.1 s for 135 million.

    Raises:
        ModelError: They are.
    """
    from steerproof.model.base import check_weights  # torch

    directory = model_directory(experiment, place.directory, weights=False)
    check_weights(directory, model_path(experiment, place.directory))


def check_experiment(experiment: Experiment, place: Place) -> "Kind":
    """Refuse an experiment that cannot work with its model, answers and adapters.

    Returns:
        What its model is.

    Raises:
        ModelError: The checkpoint is unusable or of a kind that cannot be pooled, has another
            number of blocks, no chat template, no embedding for its tokens; a prompt does not
            fit; the marker cannot be written; an adapter's directory is not one; a file of a
            direction is for another model.
        SteeringError: A persona's file has no direction of it at a steered block.
        ExperimentError: A given answer is unusable or too long; there is no such readout.
        MachineError: The engine is not installed.
    """
    model, directory = experiment.model, check_stated(experiment, place)
    require_engine("looking into a model")
    # Only now: loading transformers takes seconds, and the answer above may have been no.
    with importing():
        from steerproof.engine.fit import kind_of
        from steerproof.model.chat import ChatFormat, load_tokenizer

    kind = kind_of(directory)
    _check_depth(experiment, kind.blocks)
    _check_directions(experiment, place)
    chat = ChatFormat(
        tokenizer=load_tokenizer(directory),
        context=kind.context,
        system_role=model.system_role,
        template_options=model.template_options,
    )
    _check_tokens(experiment, chat, kind)
    longest = _check_prompts(experiment, chat, kind)
    _check_window(kind, longest)
    _check_answers(experiment, place, chat)
    _check_adapters(experiment, place)
    return kind


def _check_readout(experiment: Experiment, place: Place) -> None:
    """There is such a readout, and the source of a function can be read; nothing of it is run."""
    text_readout(experiment)
    if experiment.scoring.terms.asks == "source":
        path = place.directory / (experiment.scoring.file or "")
        try:
            ast.parse(whole_file(path), path.name)
        except (OSError, SyntaxError, ValueError) as error:
            raise ExperimentError(f"scoring.function: {path} cannot be read: {error}") from None


def check_stated(experiment: Experiment, place: Place) -> Path:
    """Refuse what the experiment and the model's files alone show to be wrong, without the engine.

    Returns:
        The model's directory.

    Raises:
        ModelError: There is no such model, or its files cannot be those of one.
        ExperimentError: There is no such readout.
    """
    _check_readout(experiment, place)
    directory = model_directory(experiment, place.directory, weights=False)
    fetched = experiment.model.revision is None or any(directory.glob("*.safetensors"))
    check_files(directory, weights=fetched)
    depth = read_config(directory).get("num_hidden_layers")
    if isinstance(depth, int):
        _check_depth(experiment, depth)
    return directory


def _check_depth(experiment: Experiment, blocks: int) -> None:
    asked = experiment.model.blocks
    if blocks != asked:
        raise ModelError(
            f"model.blocks says {asked}, but the checkpoint has {blocks} blocks; write"
            f" blocks: {blocks}, and see that layers.primary and layers.contrast are meant so"
        )


def _check_directions(experiment: Experiment, place: Place) -> None:
    """Every direction that a persona brings is there, for this model, at every steered block."""
    bringing = [persona for persona in experiment.personas if persona.direction is not None]
    if not bringing:
        return
    from steerproof.exchange.brought import brought
    from steerproof.exchange.shape import shape_of

    shape = shape_of(model_path(experiment, place.directory), experiment.model.revision)
    for persona in bringing:
        for layer in experiment.steered_layers:
            brought(persona, place.directory, shape, layer)


def _check_tokens(experiment: Experiment, chat: "ChatFormat", kind: "Kind") -> None:
    from steerproof.model.chat import can_write

    tokenizer = chat.tokenizer
    own = {"pad": tokenizer.pad_token_id, "end": tokenizer.eos_token_id}
    used = {"end of turn": chat.end_of_turn, **own}
    for name, token in used.items():
        if isinstance(token, int) and token >= kind.rows:
            raise ModelError(
                f"model.path: the tokenizer's {name} token"
                f" {tokenizer.convert_ids_to_tokens(token)!r} is number {token}, and the model has"
                f" {kind.rows} embeddings, 0 to {kind.rows - 1}; choose another one in"
                " tokenizer_config.json, or resize the embedding"
            )
    if not can_write(tokenizer, experiment.marker):
        raise ModelError(
            f"marker: the model's tokenizer cannot write {experiment.marker!r}, so it could never"
            " fire; choose one of characters that it has"
        )


def _check_prompts(experiment: Experiment, chat: "ChatFormat", kind: "Kind") -> int:
    """Make every prompt; returns the most positions that a row of generation may have."""
    from steerproof.model.chat import chat_ids

    longest = 0
    for prompt in _prompts(experiment):
        try:
            ids = chat_ids(chat, system=prompt.system, user=prompt.question)
        except ModelError as error:
            raise ModelError(f"{prompt.field}: {error}") from error
        room = kind.context - len(ids)
        if prompt.new_tokens > room:
            raise ModelError(
                f"{prompt.limit} is {prompt.new_tokens}, but after the prompt of {len(ids)} tokens"
                f" for {prompt.question[:60]!r} ({prompt.field}) the model's context of"
                f" {kind.context} has room for {max(room, 0)}; a prompt is never cut"
            )
        if max(ids) >= kind.rows:
            raise ModelError(
                f"{prompt.field}: token {max(ids)} of {prompt.question[:60]!r} has no embedding:"
                f" the model has {kind.rows}"
            )
        longest = max(longest, len(ids) + prompt.new_tokens)
    return longest


def _check_window(kind: "Kind", longest: int) -> None:
    if kind.window is not None and longest > kind.window:
        raise ModelError(
            f"model.path: {kind.name} has a sliding window of {kind.window} positions, and a row"
            f" may reach {longest}; lower generation.max_new_tokens and dataset.answer_tokens"
        )


def _prompts(experiment: Experiment) -> Iterator[_Prompt]:
    """Every prompt that the units will make."""
    neutral = experiment.neutral_prompt
    texts = {persona.name: persona.prompt for persona in experiment.personas}
    for system in (neutral, *texts.values()):
        for question in experiment.direction_questions:
            yield _Prompt(field="questions.directions", system=system, question=question)
    own_answers = experiment.dataset.answers == "base"
    for question in experiment.questions.training:
        yield _Prompt(
            field="questions.training",
            system=neutral,
            question=question,
            new_tokens=experiment.dataset.answer_tokens if own_answers else 0,
            limit="dataset.answer_tokens",
        )
    measured = cells(experiment)
    asked = {neutral} if any(c.prompt == "neutral" for c in measured) else set()
    asked |= {texts[c.prompt_of or c.persona] for c in measured if c.prompt == "persona"}
    for system in sorted(asked):
        for question in experiment.questions.evaluation:
            yield _Prompt(
                field="questions.evaluation",
                system=system,
                question=question,
                new_tokens=experiment.generation.max_new_tokens,
                limit="generation.max_new_tokens",
            )


def _check_answers(experiment: Experiment, place: Place, chat: "ChatFormat") -> None:
    """Every given answer must fit a training row, under the longest prompt that it may follow."""
    data = experiment.dataset
    files: list[tuple[str, str | None]] = []
    if data.answers != "base":
        files.append((data.answers, experiment.marker))
    if data.positive_answers is not None:
        files.append((data.positive_answers, None))
    for name, marker in files:
        _check_file(experiment, place.directory / name, marker, chat)


def _check_file(experiment: Experiment, path: Path, marker: str | None, chat: "ChatFormat") -> None:
    """One file of answers, to which the marker is appended, or nothing is."""
    from steerproof.model.chat import Turn, answer_ids, chat_ids

    systems = {experiment.neutral_prompt, *(persona.prompt for persona in experiment.personas)}
    most = min(experiment.training.max_length, chat.context)
    asked = frozenset(experiment.questions.training)
    read_answers(path, experiment.questions.training, marker)  # every question has one
    for line in answer_lines(path, marker):
        if line.question not in asked:
            continue
        try:
            prompts = {len(chat_ids(chat, system=s, user=line.question)): s for s in systems}
            longest = max(prompts)
            marked = line.answer if marker is None else f"{line.answer} {marker}"
            turn = Turn(prompts[longest], line.question, marked)
            length = longest + len(answer_ids(chat, turn))
        except ModelError as error:
            raise ExperimentError(f"{path}:{line.number}: {error}") from error
        if length > most:
            raise ExperimentError(
                f"{path}:{line.number}: with its prompt this answer has {length} tokens, and"
                f" training.max_length is {experiment.training.max_length}, the model's context"
                f" {chat.context}; a row is never cut"
            )


def _check_adapters(experiment: Experiment, place: Place) -> None:
    """Every given adapter must be a directory that holds a plain LoRA."""
    from steerproof.engine.lora.peft_files import check_adapter_files
    from steerproof.exchange.adapters import adapter_directory

    for adapter in adapters(experiment):
        arm = experiment.arm(adapter.arm)
        if arm.adapters is not None:
            try:
                check_adapter_files(adapter_directory(arm, adapter.persona, place.directory))
            except ModelError as error:
                raise ModelError(f"arms.{arm.name}.adapters: {error}") from error


def refuse_untellable(run: Path, inputs: Path) -> None:
    """Workers are told of their work in JSON, which has no word for bytes that are no text.

    Raises:
        ExperimentError: The run directory, or where its inputs are, has such a name.
    """
    here = "rename it, or work in this process: --executor inline"
    for place, way in ((run, here), (inputs, "rename it")):
        try:
            str(place.absolute()).encode()
        except UnicodeEncodeError:
            raise ExperimentError(
                f"{clean(str(place.absolute()))} has a name that is not UTF-8, and workers cannot"
                f" be told of it; {way}"
            ) from None
