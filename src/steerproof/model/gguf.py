"""A GGUF file becomes a Hugging Face directory, once, in the user's cache.

Everything else in the package reads one kind of checkpoint. Converted are the float32 values that
the file's blocks stand for, as transformers reads them, so no number changes.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerproof.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SUFFIX = ".gguf"
SOURCE = "source.json"
"""In a converted directory: the file it was made of, and that file's sha256."""
Say = Callable[[str], None]
_NEEDS = ("gguf", "accelerate")
_FLOAT32 = 4
_AGAIN = "fetch it again, or give the Hugging Face directory that it was made of"
# Tensors and fields that bend the rotary positions; transformers reads none of them from a GGUF.
_ROPE_TENSORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
_ROPE_SCALING = ".rope.scaling.type"
_LOG = logging.getLogger(__name__)


def _cache_directory() -> Path:
    """Where converted models are kept: `steerproof/models` in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "steerproof" / "models"


def converted_directory(name: str, sha256: str) -> Path:
    """Where the conversion of a GGUF file is or will be."""
    return _cache_directory() / f"{name}-{sha256[:16]}"


def converted(file: Path, say: Say = _LOG.warning) -> Path:
    """The directory that a GGUF file was converted into; converts it the first time.

    Args:
        file: A GGUF file.
        say: Told in a line what is done; the log's by default, since it is rare and takes long.

    Raises:
        ModelError: It is no GGUF file, transformers does not read its architecture from GGUF, it
            has no tokenizer or chat template, or the cache cannot be written.
    """
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    directory = converted_directory(file.stem, sha256)
    if directory.is_dir():
        return directory
    _check_readable(file)
    say(f"converting {file.name} into {directory}, once")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=directory.parent) as place:
            made = Path(place) / directory.name
            _convert(file, made, sha256)
            if not directory.is_dir():  # else another process was faster
                made.rename(directory)
    except OSError as error:
        raise ModelError(
            f"cannot convert {str(file)!r} into {str(directory)!r}: {error}; set XDG_CACHE_HOME to"
            f" a directory with {_FLOAT32} bytes free for every parameter"
        ) from error
    return directory


def _check_readable(file: Path) -> None:
    """Refuse by name what would fail, or be read as something else.

    Raises:
        ModelError: With the reason.
    """
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.utils.import_utils import is_accelerate_available, is_gguf_available

    if not (is_gguf_available() and is_accelerate_available()):
        raise ModelError(f"reading {file.name} needs: pip install {' '.join(_NEEDS)}")
    try:
        metadata, tensors = read_gguf_metadata(str(file))
    except Exception as error:  # a damaged header raises whatever its bytes happen to mean
        raise ModelError(f"{str(file)!r} is no readable GGUF file: {error}; {_AGAIN}") from error
    architecture = str(metadata["general.architecture"])
    known = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - {"general"}
    # llama.cpp writes some names without the underscore or with a hyphen.
    plain = {name.replace("_", "").replace("-", "") for name in known}
    if architecture.replace("_", "").replace("-", "") not in plain:
        raise ModelError(
            f"{str(file)!r} is of architecture {architecture!r}, which transformers does not read"
            f" from GGUF; it reads {', '.join(sorted(known))}; give the Hugging Face directory"
        )
    bent = [name for name in tensors if name.startswith(_ROPE_TENSORS)]
    scaling = metadata.get(f"{architecture}{_ROPE_SCALING}", "none")
    if bent or (scaling != "none" and architecture != "gpt-oss"):
        raise ModelError(
            f"{str(file)!r} scales its rotary positions ({', '.join(bent) or scaling}), which"
            " transformers does not read from GGUF; give the Hugging Face directory"
        )


def _convert(file: Path, directory: Path, sha256: str) -> None:
    from steerproof.model.chat import check_template

    with redirect_stderr(StringIO()):  # transformers' own bars
        try:
            tokenizer, model = _read(file)
        except Exception as error:  # tokenizers raises nothing narrower
            raise ModelError(f"cannot read {str(file)!r}: {_why(error)}; {_AGAIN}") from error
        check_template(tokenizer)
        if hasattr(model.config, "quantization_config"):
            delattr(model.config, "quantization_config")  # the values are plain now
        tokenizer.save_pretrained(directory)
        model.save_pretrained(directory)
    for name in ("config.json", "generation_config.json"):
        _drop_version(directory / name)
    source = {"file": file.name, "sha256": sha256}
    (directory / SOURCE).write_text(json.dumps(source, indent=1) + "\n", "utf-8")


def _why(error: Exception) -> str:
    """What is wrong with the file, from an error that speaks of transformers' own options."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    if "ignore_mismatched_sizes" in str(error):
        return "its weights are of other shapes than its metadata says"
    return str(error)


def _read(file: Path) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: Any = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **where,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"it lacks the weights {sorted(info['missing_keys'])}")
    return tokenizer, model


def _drop_version(path: Path) -> None:
    """Take out which transformers wrote the file: it decides nothing, and hashes would differ."""
    if path.is_file():
        content = json.loads(path.read_bytes())
        content.pop("transformers_version", None)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
