"""The base model of a worker process."""

import json
from functools import lru_cache

from steerproof.model.base import Base, load_base
from steerproof.model.chat import SystemRole
from steerproof.run.driver.worker import Task


@lru_cache(maxsize=1)
def _base(
    path: str,
    revision: str | None,
    dtype: str,
    device: str,
    chat: tuple[SystemRole, str],
) -> Base:
    system_role, options = chat
    return load_base(
        path,
        revision=revision,
        dtype=dtype,
        device=device,
        system_role=system_role,
        template_options=json.loads(options),
    )


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
        (context["system_role"], json.dumps(context["template_options"], sort_keys=True)),
    )
