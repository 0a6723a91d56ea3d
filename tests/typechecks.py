"""Types checked at run time in every call of the package: by beartype, and shapes by jaxtyping.

jaxtyping's import hook binds and checks the arguments of every function three times, for the sake of
the sizes that its arrays have in common: twenty microseconds a call, which was most of the time of
tests that read tables. A function that speaks of no array has none, and is checked by beartype alone.
"""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from typing import Any, get_args

import jaxtyping

_shaped = jaxtyping.jaxtyped
_CHECKED = "__types_are_checked__"


def speaks_of_arrays(annotation: object) -> bool:
    """Whether an annotation has a shape in it, or may have: a string is not looked into."""
    if isinstance(annotation, str | list | tuple):
        return isinstance(annotation, str) or any(map(speaks_of_arrays, annotation))
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(speaks_of_arrays, get_args(annotation)))


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
    shaped = any(map(speaks_of_arrays, thing.__annotations__.values()))
    checking = _shaped(thing, typechecker=typechecker) if shaped else typechecker(thing)
    setattr(checking, _CHECKED, True)
    return checking


def install() -> None:
    """Have the import hook use `checked`; before anything of the package is imported."""
    jaxtyping.jaxtyped = checked
