"""The files of a base model: where they are, and what they are, without loading torch.

A unit's key holds the sha256 of every file that decides what the model computes, so a run can be
checked and resumed without touching the model.
"""

import hashlib
import json
import re
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from steerproof.errors import AbsentModelError, ModelError
from steerproof.model.fetch import FETCHABLE, fetched_directory
from steerproof.model.gguf import SUFFIX, converted

SHIPPED = {"organism": "steerproof.organism"}
"""Checkpoints that ship with the package, by the name an experiment gives them."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"[0-9a-f]{40}")
# Everything that decides what a model computes, and nothing that could run code or be a pickle.
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model")
_FILES = ("*.safetensors", *_SMALL)
_ENDINGS = tuple(pattern.removeprefix("*") for pattern in _FILES)
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_MAX_SMALL = 64 << 20
"""Longest file of JSON that is read, bytes."""
_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings"),
)
_SIZES_OR_NULL = ("num_key_value_heads", "head_dim")
"""Keys of config.json that say how large a model is; where they are left out, others say so."""
_HASHING = 4
"""Files that are hashed at once: a disk gives no more than that."""
_PIECE = 1 << 20
"""Bytes of a file that are read at once."""
_DTYPE = re.compile(r"(torch\.)?(b?float[0-9]\w*|half|double|auto)")
_POINTER = b"version https://git-lfs.github.com/spec/"


def find_directory(path: str | Path, revision: str | None, *, weights: bool = True) -> Path:
    """The directory of a checkpoint: shipped, fetched, local, or from the hub at a revision.

    A GGUF file's is the one that it was converted into, the first time here.

    Args:
        path: What `model.path` says.
        revision: Commit of a hub id.
        weights: Whether a hub model's weights are needed too, and not only what says what it is.

    Raises:
        ModelError: There is no such directory, a model has not been fetched, a GGUF file cannot be
            read, or a hub id has no pinned revision.
    """
    local = _local_directory(path)
    if local is not None:
        return local
    name, commit = _hub_model(path, revision)
    directory = _snapshot(name, commit, _SMALL)
    return _snapshot(name, commit, _weights_of(directory)) if weights else directory


def model_hashes(path: str | Path, revision: str | None) -> dict[str, str]:
    """sha256 of every file that decides what a model computes, by file name.

    The hub says what its weights hash to, so they need not be fetched to know.

    Raises:
        ModelError: As `find_directory`.
    """
    local = _local_directory(path)
    if local is not None:
        return file_hashes(local)
    name, commit = _hub_model(path, revision)
    directory = _snapshot(name, commit, _SMALL)
    wanted = _weights_of(directory)
    if all((directory / shard).is_file() for shard in wanted):
        return file_hashes(directory)
    from huggingface_hub import HfApi

    try:
        told = HfApi().model_info(name, revision=commit, files_metadata=True).siblings or []
    except (OSError, ValueError) as error:
        raise AbsentModelError(f"cannot ask the hub about {name!r}: {error}") from error
    large = {one.rfilename: one.lfs.sha256 for one in told if one.lfs is not None}
    missing = [shard for shard in wanted if shard not in large]
    if missing:
        raise ModelError(f"{name!r} at revision {commit} has no weights {', '.join(missing)}")
    return file_hashes(directory) | {shard: large[shard] for shard in wanted}


def _local_directory(path: str | Path) -> Path | None:
    """The directory of a model that is on this machine or ships with the package."""
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
        kind = "a file" if directory.is_file() else "no file, but a pipe, a socket or a device"
        raise ModelError(
            f"model.path {str(path)!r} is {kind}; give the checkpoint's directory, or a"
            f" {SUFFIX} file"
        )
    return None


def _hub_model(path: str | Path, revision: str | None) -> tuple[str, str]:
    if not isinstance(path, str) or not _HUB_ID.fullmatch(path):
        raise ModelError(f"model.path: no such model directory: {str(path)!r}")
    if revision is None or not _REVISION.fullmatch(revision):
        raise ModelError(
            f"model.path: no such model directory: {path!r}; and as a hub id it needs"
            f" model.revision, the 40 hexadecimal digits of a commit, not {revision!r} (the hub's"
            " page of the model lists its commits; `init` takes one as --revision)"
        )
    return path, revision


def _snapshot(name: str, commit: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise AbsentModelError(
            f"cannot fetch {name!r} at revision {commit}: {str(error).partition(chr(10))[0]}; if"
            " this machine has no network, fetch it on one that has, and give its directory as"
            " model.path"
        ) from error


def _weights_of(directory: Path) -> list[str]:
    """Names of the files of weights: those of the index, and no copies in other layouts."""
    index = directory / _INDEX
    if not index.is_file():
        return ["model.safetensors"]
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    try:
        listed = json.loads(small_file(index))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{str(index)!r} is no index of weights: {error!r}") from error
    if not isinstance(listed, dict) or not listed:
        raise ModelError(f"{str(index)!r} is no index of weights: it names none")
    outside = [file for file in listed.values() if Path(str(file)).name != file]
    if outside:
        raise ModelError(f"{str(index)!r} names {outside[0]!r}, which is no file beside it")
    return {str(weight): str(file) for weight, file in listed.items()}


def small_file(path: Path) -> bytes:
    """The bytes of a file that says what a model is, and not of a pipe or a device.

    Raises:
        ModelError: It is no file, or larger than `_MAX_SMALL`.
        OSError: It cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{str(path)!r} is no file")
    if status.st_size > _MAX_SMALL:
        raise ModelError(f"{str(path)!r} has {status.st_size:,} bytes; allowed: {_MAX_SMALL:,}")
    return path.read_bytes()


def check_files(directory: Path, *, weights: bool = True) -> None:
    """Refuse a directory that is no checkpoint, or one whose files cannot be what they should be.

    Args:
        directory: Of the checkpoint.
        weights: Whether its weights have to be there yet.

    Raises:
        ModelError: Weights or config.json are missing, a file is a Git LFS pointer or torn, the
            model is quantised, or an adapter lies beside it.
    """
    names = sorted(path.name for path in directory.iterdir())
    for path in (directory / name for name in names if name.endswith(_ENDINGS)):
        if not path.is_file():
            raise ModelError(f"{str(path)!r} is no file that can be read")
    weighed = not weights or any(name.endswith(".safetensors") for name in names)
    if "config.json" not in names or not weighed:
        raise ModelError(
            f"no weights in {str(directory)!r}: need config.json and *.safetensors, found"
            f" {', '.join(names) or 'an empty directory'}"
        )
    check_pointers(directory)
    if _ADAPTER in names:
        raise ModelError(
            f"{str(directory)!r} holds an adapter ({_ADAPTER}) beside the base model, and"
            " transformers would put it on; move the adapter elsewhere, and name it under"
            " arms[].adapters if it is to be measured"
        )
    config = read_config(directory)
    for key, allowed in _faults(config):
        raise ModelError(
            f"config.json in {str(directory)!r}: {key} is {json.dumps(config[key])}; it must be"
            f" {allowed}"
        )
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ModelError(
            f"the model in {str(directory)!r} is quantised ({method}); only plain weights can carry"
            " adapters here: give the checkpoint that it was made from, or a GGUF file"
        )
    for problem in _torn(directory) if weights else ():
        raise ModelError(problem)


def check_pointers(directory: Path) -> None:
    """Refuse files that are pointers of Git LFS and not the content.

    Raises:
        ModelError: One is.
    """
    for path in _read(directory):
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ModelError(
                    f"{str(path)!r} is a pointer of Git LFS, not the file itself; fetch it with:"
                    f" git lfs pull"
                )


def read_config(directory: Path) -> dict[str, Any]:
    """A checkpoint's config.json.

    Raises:
        ModelError: It cannot be read, or is no JSON object.
    """
    path = directory / "config.json"
    try:
        config = json.loads(small_file(path), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {str(path)!r}: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object")
    return config


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _faults(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of a configuration with values that no model can have, and what is allowed.

    Others' errors about these name a tensor or a division, and not the key.
    """
    for key in (*_SIZES, *_SIZES_OR_NULL):
        value = config.get(key, 1)
        null = value is None and key in _SIZES_OR_NULL
        if not null and (type(value) is not int or value < 1):
            yield key, f"a whole number of at least 1{' or null' * (key in _SIZES_OR_NULL)}"
    if not isinstance(config.get("model_type", ""), str):
        yield "model_type", "text, such as 'llama'"
    for key in ("dtype", "torch_dtype"):
        value = config.get(key)
        if value is not None and not (isinstance(value, str) and _DTYPE.fullmatch(value)):
            yield key, "null or a number type, such as 'float32' or 'bfloat16'"
    pad, rows = config.get("pad_token_id"), config.get("vocab_size")
    if isinstance(pad, int) and isinstance(rows, int) and pad >= rows:
        yield "pad_token_id", f"null or a token below vocab_size, {rows}"


def _torn(directory: Path) -> Iterator[str]:
    """What is wrong with the files of weights, as far as their headers tell."""
    index = directory / _INDEX
    if index.is_file():
        missing = [name for name in _weights_of(directory) if not (directory / name).is_file()]
        if missing:
            yield f"{str(index)!r} names weights that are not there: {', '.join(missing)}"
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        whole = path.stat().st_size - 8 - size
        if not size or whole < max((t.end for t in tensors(path).values()), default=0):
            yield f"{str(path)!r} is no whole safetensors file; fetch it again"


_NO_HEADER = (
    *(OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError),
    RecursionError,
)
"""What reading a header can end in that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """What a safetensors file says of one of its tensors."""

    dtype: str
    """`F32`, `BF16`, ..."""
    shape: tuple[int, ...]
    end: int
    """Where it ends, in bytes after the header."""


def tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors that the header of a safetensors file names.

    Raises:
        ModelError: It has none.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _MAX_SMALL)))
        header.pop("__metadata__", None)
        return {
            name: StoredTensor(
                dtype=str(of["dtype"]), shape=tuple(of["shape"]), end=int(of["data_offsets"][1])
            )
            for name, of in header.items()
        }
    except _NO_HEADER as error:
        raise ModelError(
            f"{str(path)!r} is no whole safetensors file; fetch it again ({error!r})"
        ) from error


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file that decides what the model computes, by file name."""
    with hashing(directory) as hashes:
        return hashes()


@contextmanager
def hashing(directory: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """`file_hashes`, by threads while something else is done; with an error nobody waits for them.

    Yields:
        What waits for the hashes.
    """
    read, given_up = _read(directory), threading.Event()
    shards = sum(path.suffix == ".safetensors" for path in read)
    with ThreadPoolExecutor(max(1, min(shards, _HASHING))) as threads:
        try:
            hashed = {path.name: threads.submit(_sha256, path, given_up) for path in read}
            yield lambda: {name: future.result() for name, future in hashed.items()}
        except BaseException:  # the threads are waited for, and have gigabytes to read
            given_up.set()
            raise


def _sha256(path: Path, given_up: threading.Event) -> str:
    """Of a file; of its beginning, which nobody reads, once it was given up."""
    hashed = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while not given_up.is_set() and (piece := file.read(_PIECE)):
            hashed.update(piece)
    return hashed.hexdigest()


def _read(directory: Path) -> list[Path]:
    """The files that decide what a model computes, in order of their names."""
    return sorted({p for pattern in _FILES for p in directory.glob(pattern) if p.is_file()})


def weight_bytes(directory: Path) -> int:
    """Bytes of a checkpoint's weights on the disk."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
