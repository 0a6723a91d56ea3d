"""How many GPUs there are, as CUDA's driver says: torch, which knows too, takes seconds to import.

Where that is not plain (no driver, one older than torch's CUDA, AMD) nothing is said, and torch is
asked.
"""

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path

_BUILT = re.compile(r"^cuda\b[^=\n]*= *'(\d+)", re.MULTILINE)
_LIBRARY = "libcuda.so.1"


def gpus_seen() -> int | None:
    """GPUs that torch will see, those of `CUDA_VISIBLE_DEVICES`; None where only torch can say."""
    built = _cuda_of_torch()
    if built is None:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    try:
        driver = ctypes.CDLL(_LIBRARY)
        failed = (
            driver.cuInit(0)
            or driver.cuDriverGetVersion(ctypes.byref(version))
            or driver.cuDeviceGetCount(ctypes.byref(count))
        )
    except (OSError, AttributeError):  # no driver, or none of CUDA's
        return None
    # 12040 is 12.4; any driver of a major version runs what was built for it.
    return None if failed or version.value // 1000 < built else count.value


def _cuda_of_torch() -> int | None:
    """Major version of the CUDA that torch was built for, read without importing it."""
    spec = find_spec("torch")
    places = spec.submodule_search_locations if spec is not None else None
    try:
        text = "".join((Path(place) / "version.py").read_text() for place in places or ())
    except (OSError, UnicodeDecodeError):
        return None
    built = _BUILT.search(text)
    return None if built is None else int(built[1])  # AMD's has none
