"""What a plain installation lacks, and which extra brings it.

`pip install steerproof` reads, analyses, plans and reports; the libraries that compute with a model
come with `steerproof[run]`, the board's with `steerproof[board]`.
"""

import os
import re
import traceback
from importlib.util import find_spec

from steerproof.errors import MachineError
from steerproof.surroundings import require_surroundings

ENGINE = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
    *("numba", "accelerate", "gguf"),
)
"""Libraries of the extra `run`, by the names that they are imported under."""


def engine_installed() -> bool:
    """Whether a model can be computed with here; nothing is imported to know."""
    return all(_there(name) for name in ENGINE)


def lacking(error: ModuleNotFoundError) -> MachineError | None:
    """What to tell somebody whose installation lacks a library of the engine; None if another.

    Args:
        error: Of the import, or of the look at a library's version.
    """
    missing = (error.name or "").partition(".")[0]
    return without(missing, "run") if missing in ENGINE else None


def unreadable(error: ValueError) -> MachineError | None:
    """The variable of the environment that a library of the engine cannot be imported with.

    Libraries read their settings as they are imported, and some end on a value that they do not
    know. Their error shows the value or the variable's name.

    Args:
        error: That ended a command.

    Returns:
        None if no library was being imported, or its error shows no variable.
    """
    importing = [
        library
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>"
        and (library := frame.f_globals.get("__name__", "").partition(".")[0]) in ENGINE
    ]
    said = str(error).strip()
    set_here = sorted((name, value) for name, value in os.environ.items() if value)
    names = [name for name, value in set_here if repr(value) in said]
    names = names or [name for name, _ in set_here if re.search(rf"\b{re.escape(name)}\b", said)]
    if not importing or not names:
        return None
    return MachineError(
        f"{importing[-1]} cannot be imported with the environment's {' or '.join(names)}:"
        f" {said.splitlines()[0]}; unset it, or set a value that the library knows"
    )


def require_engine(what: str) -> None:
    """Refuse what needs a model's libraries before anything else is done for it.

    Args:
        what: What needs them, for the message.

    Raises:
        MachineError: One is not installed, or the process cannot carry them: they would end it
            without a word of Python's.
    """
    require_surroundings(what)
    for name in ENGINE:
        if not _there(name):
            raise without(name, "run", what)


def without(missing: str, extra: str, what: str = "this command") -> MachineError:
    """The error that a library of an extra is missing, with the way out."""
    return MachineError(
        f"{missing} is not installed, and {what} needs it; install it with:"
        f" pip install 'steerproof[{extra}]'"
    )


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # an import that is blocked, or half there
        return False
