"""The base model of a worker process."""

from functools import lru_cache
from typing import Any

from steerproof.model.base import Base, load_base
from steerproof.run.driver.worker import Task


@lru_cache(maxsize=1)
def _base(path: str, revision: str | None, dtype: str, device: str, system_role: Any) -> Base:
    return load_base(path, revision=revision, dtype=dtype, device=device, system_role=system_role)


def base_of(task: Task) -> Base:
    """The base model, loaded once per process.

    Raises:
        ModelError: The model is unusable.
    """
    context = task.context
    return _base(
        context["path"],
        context["revision"],
        context["dtype"],
        context["device"],
        context["system_role"],
    )
