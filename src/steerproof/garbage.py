"""When Python looks for garbage: not while there is none.

It looks through all objects again and again as they become more. Libraries of millions of lines
make objects that stay, and looking through them took a quarter of the time of importing them.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

atexit.register(gc.unfreeze)  # libraries complain at the end of what was not taken down


@contextmanager
def not_collecting() -> Iterator[None]:
    """Look for no garbage meanwhile; for what is short, or makes objects that stay."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """The same, and look through what there is by then never again."""
    with not_collecting():
        yield
        gc.freeze()
