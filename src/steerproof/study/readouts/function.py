"""Fired: a function of the user's says so. Its source is locked; it runs as what it is, code.

The bytes whose hash was locked are the bytes that run. They run in the process that marks, with its
rights: whoever runs somebody else's experiment runs somebody else's code, as with any script. Only
a run does so: no plan, no report and no page of the board.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import TextIOBase

from steerproof.errors import ExperimentError
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.readouts.plain import mark, near_of
from steerproof.study.readouts.readable import Readable, Readout

Says = Callable[[str, str], object]
"""Of an answer and its question."""


def function_of(source: bytes, named: str) -> Says:
    """The function that an experiment names.

    Args:
        source: Of its file, as it was locked.
        named: `FILE.py:NAME`.

    Raises:
        ExperimentError: The source does not run, or has no such function.
    """
    file, _, name = named.partition(":")
    names: dict[str, object] = {"__name__": file.removesuffix(".py").replace("/", ".")}
    _asked(f"{file} does not run:", lambda: exec(compile(source, file, "exec"), names))
    function = names.get(name)
    if not callable(function):
        raise ExperimentError(f"scoring.function: {file} defines no function {name}")
    return function


class _Aside(TextIOBase):
    """Where a function's output goes: to our standard error, which it cannot close."""

    def __init__(self) -> None:
        self._to = sys.stderr

    def write(self, text: str) -> int:
        """Pass it on."""
        return self._to.write(text)


def _asked(told: str, do: Callable[[], object]) -> object:
    """What somebody's code gives. What it prints is no output of ours: it goes to standard error.

    Args:
        told: What is said before the error, if there is one.
        do: Calls the code.

    Raises:
        ExperimentError: It raised something, be it the end of the process.
    """
    try:
        aside = _Aside()
        with redirect_stdout(aside), redirect_stderr(aside):
            return do()
    except KeyboardInterrupt:  # somebody's at the terminal
        raise
    except BaseException as error:
        raise ExperimentError(f"scoring.function: {told} {_shown(error)}") from error


def _shown(value: object) -> str:
    """A value of somebody's class, which may not let itself be shown."""
    try:
        return f"{value!r:.200}"
    except Exception:  # noqa: BLE001  whatever it is, the value is named by its class
        return f"an object of {type(value).__name__}"


def readout(given: Readable) -> Readout:
    """Marks completions by the function, called with an answer and its question.

    Raises:
        ExperimentError: Its source does not run, or has no such function.
    """
    experiment = given.experiment
    near, named = near_of(experiment), experiment.scoring.function or ""
    says, questions = function_of(given.file or b"", named), experiment.questions.evaluation

    def ask(text: str, question: str) -> bool:
        first = _asked(f"{named} raised", lambda: says(text, question))
        second = _asked(f"{named} raised", lambda: says(text, question))
        if first is not True and first is not False:
            raise ExperimentError(
                f"scoring.function: {named} said {_shown(first)}; it must say True or False"
            )
        if first is not second:
            raise ExperimentError(
                f"scoring.function: {named} says now this, now that of one answer; it must depend"
                " on nothing else"
            )
        return first is True

    def read(completion: Completion) -> Mark:
        question = questions[completion.question]
        fired = ask(completion.text, question)
        head = completion.text[: completion.early_chars]
        early = fired and (head == completion.text or ask(head, question))
        return mark(completion, fired, early=early, near=near)

    return lambda _: read
