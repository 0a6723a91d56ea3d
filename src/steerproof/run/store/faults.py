"""Named places where a test can make the process die, inert in every other run."""

import os
import signal

_FAULT_VARIABLE = "STEERPROOF_FAULT"
_passed: dict[str, int] = {}


def fault_point(name: str, kind: str = "") -> None:
    """Send this process the signal that `STEERPROOF_FAULT` asks for at this place.

    The variable reads `name:SIGNAL` or `name/kind:SIGNAL`, with `:nth` (from 1) if wanted,
    for example `rename.before/cell:KILL:2`: the second time a cell is about to be renamed.

    Args:
        name: The place, for example `fsync.after`.
        kind: The kind of unit in hand, where there is one.
    """
    asked = os.environ.get(_FAULT_VARIABLE)
    if not asked:
        return
    place, signal_name, *nth = asked.split(":")
    if place not in (name, f"{name}/{kind}"):
        return
    _passed[place] = _passed.get(place, 0) + 1
    if _passed[place] == int(nth[0] if nth else 1):
        os.kill(os.getpid(), signal.Signals[f"SIG{signal_name}"])
