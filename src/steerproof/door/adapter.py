"""A LoRA adapter as a value: trained here, or read from PEFT's two files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steerproof.engine.lora.peft_files import CONFIG, WEIGHTS, read_peft
from steerproof.engine.lora.weights import LoraWeights
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.study.trained import TrainingRecord


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """A LoRA adapter; known by identity."""

    name: str
    source: LoraWeights | Path
    """The weights, or the directory that holds PEFT's files."""
    files: Mapping[str, bytes]
    """`adapter_config.json` and `adapter_model.safetensors`, as PEFT reads them."""
    record: TrainingRecord | None = None
    """How it was trained; None where that is not known."""

    def save(self, directory: str | Path) -> Path:
        """Write PEFT's two files.

        Args:
            directory: Made if it is not there.
        """
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (place / name).write_bytes(content)
        return place


AnyAdapter = Adapter | LoraWeights | str | Path | None
"""What may be given as an adapter: one, its directory, or None for the bare model."""


def adapter_in(directory: Path, name: str, record: TrainingRecord) -> Adapter:
    """The adapter that a directory holds in PEFT's format.

    Raises:
        ModelError: A file is missing.
    """
    try:
        files = {file: (directory / file).read_bytes() for file in (CONFIG, WEIGHTS)}
    except OSError as error:
        raise ModelError(f"{directory} is no PEFT adapter: {error}") from None
    return Adapter(name=name, source=directory, files=files, record=record)


def weights_of(base: Base, adapter: AnyAdapter) -> LoraWeights | None:
    """The weights of an adapter for a base; None for the bare model.

    Raises:
        ModelError: It is none, or does not fit the base.
    """
    source = adapter.source if isinstance(adapter, Adapter) else adapter
    if source is None or isinstance(source, LoraWeights):
        return source
    return read_peft(Path(source), base)


def name_of(adapter: AnyAdapter) -> str:
    """What an adapter is called in tables; the bare model is `base`."""
    if adapter is None:
        return "base"
    if isinstance(adapter, Adapter):
        return adapter.name
    return "adapter" if isinstance(adapter, LoraWeights) else Path(adapter).name
