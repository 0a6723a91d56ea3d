"""Further programs of ours: Python again, with what we import and nothing of where the user stands.

`python -m` looks for modules in the current directory first. A folder of experiments may well hold
a `random.py` or a `torch.py`, which is nobody's business but its owner's.
"""

import os
import sys


def python(module: str, *arguments: str) -> list[str]:
    """The words that run a module.

    Args:
        module: Its dotted name.
        arguments: What it is told.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Our environment, in which Python imports from where we do."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
