"""What is read off a completion or off log-probabilities: one file a readout.

A readout is made from the experiment and what else it asks for (`Readable`), and marks one
completion at a time; it imports no torch, so a verdict is recomputed from saved texts.

To add one: a file here that defines `readout(given)` as `marker` does, of the name under which
`spec.scoring.READOUTS` has its entry; `load` finds it by that name.
"""


def module_of(name: str) -> str:
    """Where the readout of a name is defined."""
    return f"{__name__}.{name}"
