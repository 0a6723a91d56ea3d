"""Fired: a function of the user's says so. Its source is locked; it runs as what it is, code.

The bytes whose hash was locked are the bytes that run. They run in the process that marks, with its
rights: whoever runs somebody else's experiment runs somebody else's code, as with any script. Only
a run does so: no plan, no report and no page of the board.
"""

from collections.abc import Callable

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
    try:
        exec(compile(source, file, "exec"), names)
    except Exception as error:
        raise ExperimentError(f"scoring.function: {file} does not run: {error!r}") from error
    function = names.get(name)
    if not callable(function):
        raise ExperimentError(f"scoring.function: {file} defines no function {name}")
    return function


def readout(given: Readable) -> Readout:
    """Marks completions by the function, called with an answer and its question.

    Raises:
        ExperimentError: Its source does not run, or has no such function.
    """
    experiment = given.experiment
    near, named = near_of(experiment), experiment.scoring.function or ""
    says, questions = function_of(given.file or b"", named), experiment.questions.evaluation

    def ask(text: str, question: str) -> bool:
        try:
            first, second = says(text, question), says(text, question)
        except Exception as error:
            raise ExperimentError(f"scoring.function: {named} raised {error!r}") from error
        if not isinstance(first, bool):
            raise ExperimentError(
                f"scoring.function: {named} said {first!r:.60}; it must say True or False"
            )
        if first is not second:
            raise ExperimentError(
                f"scoring.function: {named} says now this, now that of one answer; it must depend"
                " on nothing else"
            )
        return first

    def read(completion: Completion) -> Mark:
        question = questions[completion.question]
        fired = ask(completion.text, question)
        head = completion.text[: completion.early_chars]
        early = fired and (head == completion.text or ask(head, question))
        return mark(completion, fired, early=early, near=near)

    return lambda _: read
