"""A subject as rows see it: its adapters and its steering on its base, its norms quick."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from steerproof.engine.lora.merged import SharedWeights, fusable, fused
from steerproof.engine.lora.packed import together
from steerproof.engine.norms import quick_norms
from steerproof.engine.rows import Subject


@contextmanager
def attached(subject: Subject, wholes: Sequence[SharedWeights] | None = None) -> Iterator[None]:
    """Attach the adapters, as whole weights where that is exact and faster, and the steering.

    Args:
        subject: What to attach to what.
        wholes: The adapters' `whole_weights`, where they were computed before.
    """
    adapters = subject.adapters
    with ExitStack() as stack:
        stack.enter_context(quick_norms(subject.base))
        if adapters is not None:
            whole = wholes is not None or fusable(adapters)
            stack.enter_context(fused(adapters, wholes) if whole else together(adapters))
        if subject.steering is not None:
            stack.enter_context(subject.steering.attach())
        yield
