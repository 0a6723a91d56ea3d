"""How a model is handed its cache: transformers 5.24 renamed the argument and the result."""

import inspect
from functools import cache
from typing import Any

from torch import nn

_NEW, _OLD = "cache", "past_key_values"


def handed(model: nn.Module, keys: object) -> dict[str, Any]:
    """The keyword argument under which a model's `forward` takes what was computed before."""
    return {_argument(type(model)): keys}


@cache
def _argument(kind: type[nn.Module]) -> str:
    # What transformers wraps, a signature sees through: the old name is only taken by the wrapper.
    return _NEW if _NEW in inspect.signature(kind.forward).parameters else _OLD


def kept(output: Any) -> Any:
    """The cache that a model's output holds."""
    return output[_NEW] if _NEW in output else output[_OLD]
