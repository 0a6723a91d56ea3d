"""The base model of a worker process."""

import json
from functools import lru_cache

from steerproof.model.base import Base, load_base
from steerproof.model.chat import SystemRole
from steerproof.run.driver.worker import Task
from steerproof.run.stages.inputs import context_of


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
    task.teller.phase("loading the model")
    where = context_of(task)
    options = json.dumps(dict(where.template_options), sort_keys=True)
    written = (where.system_role, options)
    base = _base(where.path, where.revision, where.dtype, where.device, written)
    task.teller.phase("")
    return base
