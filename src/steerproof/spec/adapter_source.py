"""Where an arm's existing adapters are: a directory here, or a repository on the hub.

loras                              loras/PERSONA/
loras/{persona}-r32                a folder for each persona, by a pattern
owner/name@COMMIT                  PERSONA/ in the repository at that commit
owner/name@COMMIT:adapters         adapters/PERSONA/ in it
owner/name@COMMIT:lora_{persona}   a folder for each persona in it, by a pattern
"""

import re
from dataclasses import dataclass

PERSONA = "{persona}"
"""Stands for the persona's name in a pattern."""
_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)@([^:/]*)(?::(.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """A folder for each persona, here or in a repository."""

    repository: str | None = None
    """Hub id; None for a directory here."""
    revision: str | None = None
    """Commit of the repository, 40 hex digits."""
    pattern: str
    """The folder, with `{persona}` in it."""

    @classmethod
    def parse(cls, text: str) -> "AdapterSource":
        """Read what an arm's `adapters` says.

        Raises:
            ValueError: A repository has no pinned commit, or a folder leads out of it.
        """
        match = _HUB.fullmatch(text)
        if match is None:
            return cls(pattern=_pattern(text))
        repository, revision, folder = match.groups()
        if not _COMMIT.fullmatch(revision):
            raise ValueError(
                f"adapters {text!r}: {revision!r} is no commit; write {repository}@ and the 40"
                " hexadecimal digits of one, so that the adapters cannot change"
            )
        pattern = _pattern(folder or "")
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise ValueError(
                f"adapters {text!r}: the folder {folder!r} leads out of the repository"
            )
        return cls(repository=repository, revision=revision, pattern=pattern)

    def folder(self, persona: str) -> str:
        """The folder of one persona."""
        return self.pattern.replace(PERSONA, persona)


def _pattern(folder: str) -> str:
    """A folder without a pattern holds one folder for each persona."""
    if PERSONA in folder:
        return folder
    return f"{folder.rstrip('/')}/{PERSONA}" if folder else PERSONA
