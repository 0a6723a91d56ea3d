"""Types checked at run time in every call of the package: by beartype, and shapes by jaxtyping.

jaxtyping's import hook binds and checks the arguments of every function three times, for the sizes
that its arrays have in common: twenty microseconds a call, which was most of the time of tests that
read tables. A function that speaks of no array has none, and is checked by beartype alone.
"""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin

import jaxtyping

_shaped = jaxtyping.jaxtyped
_CHECKED = "__types_are_checked__"


def speaks_of_arrays(annotation: object, function: Any) -> bool:
    """Whether an annotation of a function has a shape in it, or may have."""
    if isinstance(annotation, str):
        return _string_speaks_of_arrays(annotation, function)
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    if get_origin(annotation) is Literal:
        return False
    parts = annotation if isinstance(annotation, list | tuple) else get_args(annotation)
    return any(speaks_of_arrays(part, function) for part in parts)


def _string_speaks_of_arrays(text: str, function: Any) -> bool:
    if text in function.__qualname__.split("."):
        return False  # the class that it is a method of, which is not there yet
    try:
        return speaks_of_arrays(eval(text, function.__globals__), function)
    except Exception:  # noqa: BLE001  a name for type checkers alone: nobody can say
        return True


def checked(thing: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """In place of `jaxtyping.jaxtyped`, as its import hook calls it: a decorator."""
    if thing is None:
        return partial(checked, typechecker=typechecker)
    again = partial(checked, typechecker=typechecker)
    if inspect.isclass(thing):
        if is_dataclass(thing) and not hasattr(thing.__init__, _CHECKED):
            thing.__init__ = again(thing.__init__)
        return thing
    if isinstance(thing, classmethod | staticmethod):
        return type(thing)(again(thing.__func__))
    if isinstance(thing, property):
        parts = (thing.fget, thing.fset, thing.fdel)
        return property(*(part and again(part) for part in parts))
    shaped = any(speaks_of_arrays(one, thing) for one in thing.__annotations__.values())
    checking = _shaped(thing, typechecker=typechecker) if shaped else typechecker(thing)
    setattr(checking, _CHECKED, True)
    return checking


def install() -> None:
    """Have the import hook use `checked`; before anything of the package is imported."""
    jaxtyping.jaxtyped = checked
