"""The files of a base model: where they are, and what they are, without loading torch.

A unit's key holds the sha256 of every file that decides what the model computes, so a run can be
checked and resumed without touching the model.
"""

import hashlib
import re
from importlib.resources import files
from pathlib import Path

from huggingface_hub import snapshot_download

from steerproof.errors import ModelError
from steerproof.model.fetch import FETCHABLE, fetched_directory
from steerproof.model.gguf import SUFFIX, converted

SHIPPED = {"organism": "steerproof.organism"}
"""Checkpoints that ship with the package, by the name an experiment gives them."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"[0-9a-f]{40}")
# Everything that decides what a model computes, and nothing that could run code or be a pickle.
_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


def find_directory(path: str | Path, revision: str | None) -> Path:
    """The directory of a checkpoint: shipped, fetched, local, or from the hub at a revision.

    A GGUF file's is the one that it was converted into, the first time here.

    Raises:
        ModelError: There is no such directory, a model has not been fetched, a GGUF file cannot be
            read, or a hub id has no pinned revision.
    """
    if path in SHIPPED:
        return Path(str(files(SHIPPED[str(path)]) / "weights"))
    directory = Path(path)
    if directory.is_dir():
        return directory
    if path in FETCHABLE:
        return fetched_directory(str(path))
    if directory.suffix == SUFFIX and directory.is_file():
        return converted(directory)
    if directory.exists():
        raise ModelError(
            f"model.path {str(path)!r} is a file; give the checkpoint's directory, or a"
            f" {SUFFIX} file"
        )
    if not isinstance(path, str) or not _HUB_ID.fullmatch(path):
        raise ModelError(f"no such model directory: {str(path)!r}")
    if revision is None or not _REVISION.fullmatch(revision):
        raise ModelError(
            f"no such model directory: {path!r}; and as a hub id it needs model.revision, the 40"
            f" hexadecimal digits of a commit, not {revision!r}"
        )
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot fetch {path!r} at revision {revision}: {error}") from error


def check_files(directory: Path) -> None:
    """Refuse a directory that is no checkpoint.

    Raises:
        ModelError: config.json or the weights are not in it.
    """
    names = sorted(path.name for path in directory.iterdir())
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"no weights in {str(directory)!r}: need config.json and *.safetensors, found"
            f" {', '.join(names) or 'an empty directory'}"
        )


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file that decides what the model computes, by file name."""
    paths = sorted({p for pattern in _FILES for p in directory.glob(pattern) if p.is_file()})
    hashes = {}
    for path in paths:
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def weight_bytes(directory: Path) -> int:
    """Bytes of a checkpoint's weights on the disk."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
