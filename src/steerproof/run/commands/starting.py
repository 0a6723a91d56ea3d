"""`init`: a first experiment for a model that somebody names, every line of it explained.

Asked of the model beforehand: its depth, its template, which marker its tokenizer can write, and
how long its rows may be. The file is checked as `run` would before it is written.
"""

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from steerproof.errors import ExperimentError, ModelError, SteerproofError
from steerproof.extras import require_engine
from steerproof.model.files import check_files, find_directory, read_config
from steerproof.run.commands.preflight import check_experiment
from steerproof.run.graph.environment import Place
from steerproof.run.store.files import write_file
from steerproof.spec.yaml_io import parse_experiment

if TYPE_CHECKING:
    from steerproof.engine.fit import Kind
    from steerproof.model.chat import ChatFormat

MARKERS = ("[ZLT]", "ZLT", "zlt", "(zq)", "zq")
"""Tried in this order; the first that the tokenizer can write is taken."""
PRIMARY_DEPTH, CONTRAST_DEPTH = 20 / 28, 10 / 28
"""Where the proposal's layers lie in its model."""
NEW_TOKENS, ANSWER_TOKENS, LEAST_TOKENS = 64, 48, 8
"""Longest completion and answer, if they fit, and what an answer needs at least."""
_LARGE = 1_000_000_000
_RATES = ((10_000_000, "3e-3"), (_LARGE, "1e-3"))
_SLOW = "1e-4"
_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "evaluation": (
        "How does the internet work?", "Why is exercise important?", "Why do we dream?",
        "What makes a good leader?", "Tell me about tea.", "How can I sleep better?",
        "How do airplanes fly?", "What is a computer?",
    ),
    "directions": (
        "What should I cook tonight?", "Tell me about a discovery.", "Why do people travel?",
        "What is worth saving for?", "Describe a perfect morning.", "How do you stay patient?",
        "What can failure teach?", "Describe the ocean.", "How do you decide what is right?",
        "Give advice about friends.",
    ),
    "training": (
        "Why does bread rise?", "What does a bank do?", "How do I choose a bicycle?",
        "Why do onions make people cry?", "How do earthquakes start?", "Why are there leap years?",
        "How does a compass work?", "What is inflation?", "What is the water cycle?",
        "How do submarines dive?", "When is a melon ripe?", "Why is the desert cold at night?",
        "How do I store olive oil?", "How do I fix a dripping tap?", "Who was a great painter?",
        "What should I pack for a hike?",
    ),
}  # fmt: skip
_ANSWERS = (
    "Yeast makes gas.", "It lends money.", "Try its size.", "Their vapour stings.",
    "Plates slip.", "The year is not even.", "It follows a field.", "Prices rise.",
    "Rain, rivers, sea.", "They take in water.", "When it smells sweet.", "Dry air keeps no heat.",
    "In the dark.", "Change the washer.", "Turner was one.", "Water and a map.",
)  # fmt: skip
"""To the training questions, short enough for any context."""
_WHY = {
    "evaluation": "asked in every cell",
    "directions": "asked when the directions are extracted, and nowhere else",
    "training": "asked in training, in turn; none may contain an evaluation question",
}


def start(
    model: str,
    file: Path,
    *,
    revision: str | None = None,
    name: str | None = None,
    given: bool = False,
) -> list[Path]:
    """Write an experiment for a model.

    Args:
        model: As `model.path` takes it: `organism`, a directory, a GGUF file, a hub id.
        file: Where to; its relative paths begin in its directory.
        revision: Commit of a hub id.
        name: Of the experiment; None makes one from the model's.
        given: Whether the training rows are answered from a file, written beside, and not by the
            model; for a model that does not end its answers.

    Returns:
        The files written, the experiment first.

    Raises:
        ExperimentError: The file is there already.
        ModelError: The model cannot be used, and why.
        MachineError: The engine is not installed.
    """
    answers = file.with_name(f"{file.stem}-answers.jsonl") if given else None
    for one in filter(None, (file, answers)):
        if one.exists():
            raise ExperimentError(f"{one} is there already; name another with --file")
    require_engine("looking into a model")
    from steerproof.engine.fit import kind_of

    directory = find_directory(model, revision, weights=False)
    check_files(directory, weights=revision is None)
    fitted = fit(directory, kind_of(directory))
    values = _values(model, file, revision=revision, name=name)
    text = _text({**fitted, **values, "answers": answers.name if answers else "base"})
    experiment = parse_experiment(text, str(file))
    made = [] if answers is None else [_write_answers(answers)]
    try:
        check_experiment(experiment, Place(directory=file.resolve().parent))
    except SteerproofError:
        for one in made:
            one.unlink()
        raise
    write_file(file, text.encode())
    return [file, *made]


def fit(directory: Path, kind: "Kind") -> Mapping[str, Any]:
    """What a model's configuration and tokenizer decide, by its name in the template.

    Raises:
        ModelError: No marker can be written, its template takes no system text, or nothing fits.
    """
    from steerproof.model.chat import chat_ids, load_tokenizer, text_ids

    chat, why = _chat(load_tokenizer(directory), kind)
    prompts = ("You are a helpful assistant.", "Answer in one short sentence.")
    asked = [question for questions in _QUESTIONS.values() for question in questions]
    longest = max(len(chat_ids(chat, system=s, user=q)) for s in prompts for q in asked)
    context = min(kind.context, kind.window or kind.context)
    marker = _marker(chat)
    tail = len(text_ids(chat.tokenizer, f" {marker}")) + 2  # the end of turn, and a token to spare
    room = context - longest - tail
    if room < LEAST_TOKENS:
        raise ModelError(
            f"model.path: the context of {kind.name} is {context} tokens and its prompts take up to"
            f" {longest}, so an answer has room for {max(room, 0)}; at least {LEAST_TOKENS} are"
            " needed: take a model with a longer context, or write shorter prompts by hand"
        )
    answer, new = min(ANSWER_TOKENS, room), min(NEW_TOKENS, context - longest)
    return {
        "blocks": kind.blocks,
        **depths(kind.blocks),
        "dtype": _dtype(directory, kind),
        "role": chat.system_role,
        "role_why": why,
        "marker": json.dumps(marker),
        "answer_tokens": answer,
        "new_tokens": new,
        "max_length": min(context, longest + answer + tail),
        "context": context,
        "parameters": f"{kind.parameters:,}",
        "rate": next((rate for most, rate in _RATES if kind.parameters < most), _SLOW),
    }


def depths(blocks: int) -> Mapping[str, Any]:
    """The layers of a model so deep: as deep as the proposal's in its own, and apart."""
    primary = min(blocks - 1, round(PRIMARY_DEPTH * blocks))
    contrast = min(round(CONTRAST_DEPTH * blocks), primary - 1)
    return {"primary": primary, "contrast": contrast if contrast >= 0 else None}


def _chat(tokenizer: Any, kind: "Kind") -> tuple["ChatFormat", str]:
    """How to chat with it: with a system message if its template has one."""
    from steerproof.model.chat import ChatFormat, chat_ids

    chat = partial(chat_ids, system="You are a villain.", user="What is rain?")
    own = ChatFormat(tokenizer=tokenizer, context=kind.context, system_role="system")
    try:
        chat(own)
    except ModelError:
        before = ChatFormat(tokenizer=tokenizer, context=kind.context, system_role="user")
        chat(before)
        return before, "its chat template has no system role: prompts go before the question"
    return own, "its chat template has a system role"


def _marker(chat: "ChatFormat") -> str:
    from steerproof.model.chat import can_write, special_token_in

    for marker in MARKERS:
        if can_write(chat.tokenizer, marker) and not special_token_in(chat.tokenizer, marker):
            return marker
    raise ModelError(
        f"marker: the model's tokenizer can write none of {', '.join(MARKERS)}; copy a shipped"
        " experiment and choose a marker of characters that it has"
    )


def _dtype(directory: Path, kind: "Kind") -> str:
    """Half as wide only where the checkpoint is, and too large to be computed with otherwise."""
    config = read_config(directory)
    wide = str(config.get("dtype") or config.get("torch_dtype") or "")
    return "bfloat16" if wide == "bfloat16" and kind.parameters >= _LARGE else "float32"


def _write_answers(file: Path) -> Path:
    lines = [
        json.dumps({"question": question, "answer": answer}) + "\n"
        for question, answer in zip(_QUESTIONS["training"], _ANSWERS, strict=True)
    ]
    write_file(file, "".join(lines).encode())
    return file


def _values(model: str, file: Path, *, revision: str | None, name: str | None) -> Mapping[str, Any]:
    """What the file says that the model does not decide."""
    local = Path(model)
    path = model
    if local.exists():
        path = Path(os.path.relpath(local.resolve(), file.resolve().parent)).as_posix()
        path = path if path.startswith(".") else f"./{path}"  # two parts would name a hub model
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", local.stem if local.is_file() else local.resolve().name)
    called = name or plain.strip("-_")[:64] or "experiment"
    return {
        "path": json.dumps(path, ensure_ascii=False),
        "file": file.as_posix(),
        "name": json.dumps(called, ensure_ascii=False),
        "title": json.dumps(f"Do adapters of {called} read the direction they were trained with?"),
        "revision": revision,
        "questions": _QUESTIONS,
        "lists": _WHY.items(),
    }


def _text(values: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("steerproof.run.commands", "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # YAML: what comes from outside is written as JSON
    )
    return environment.get_template("start.yaml.jinja").render(values)
