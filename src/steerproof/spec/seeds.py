"""Seeds by name: the same part of an experiment draws the same numbers wherever it runs."""

import hashlib


def derived_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that depends on every part and on nothing else.

    The parts are joined with a separator that cannot occur in a number, so that ("a", 12) and
    ("a1", 2) differ; BLAKE2b mixes them.
    """
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
