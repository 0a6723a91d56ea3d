"""Files that an experiment names: what they hash to, or what they hashed to when registered."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from steerproof.errors import ExperimentError, ModelError
from steerproof.exchange.adapters import adapter_directory
from steerproof.model.files import file_hashes
from steerproof.run.graph.keys import file_sha256
from steerproof.spec.experiment import Arm, DatasetSettings, Persona
from steerproof.spec.grid import AdapterId
from steerproof.spec.scoring import Scoring


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """sha256 of what units read besides the experiment, as it was registered.

    With it a run directory is understood where these files are not.
    """

    model: Mapping[str, str] | None = None
    """By file name; None looks at the files."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Of `answers`, `positive_answers` and the `readout`'s file, where one was given."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Of adapters and directions that were given, by `<unit's name>/<file>`."""

    def of(self, name: str) -> dict[str, str]:
        """Those of one unit, by file."""
        start = f"{name}/"
        return {k.removeprefix(start): v for k, v in self.files.items() if k.startswith(start)}


class GivenFiles:
    """Hashes of files by what they are for; one that is neither there nor known is an error."""

    def __init__(self, directory: Path, known: Known) -> None:
        """Nothing is hashed yet.

        Args:
            directory: Where relative paths start.
            known: What files hash to that need not be there.
        """
        self._directory, self._known = directory, known

    def answers(self, dataset: DatasetSettings) -> dict[str, str]:
        """Of the answers to the training questions, as a unit's inputs name them."""
        hashes = {}
        if dataset.answers != "base":
            hashes["file"] = self._data("answers", dataset.answers, "'base'")
        if dataset.positive_answers is not None:
            given = dataset.positive_answers
            hashes["positive_file"] = self._data("positive_answers", given, "leave it out")
        return hashes

    def _data(self, field: str, source: str, instead: str) -> str:
        path = self._directory / source
        missing = f"dataset.{field}: no file {path}; give a JSONL, or {instead}"
        return _sha256(path, self._known.data.get(field), missing)

    def directions(self, personas: Iterable[Persona], unit: str) -> dict[str, str]:
        """Of the directions that personas bring, by persona."""
        known, hashes = self._known.of(unit), {}
        for persona in personas:
            if persona.direction is not None:
                path = self._directory / persona.direction
                missing = f"persona {persona.name}: no direction file {path}"
                hashes[persona.name] = _sha256(path, known.get(persona.name), missing)
        return hashes

    def adapter(self, arm: Arm, adapter: AdapterId) -> Mapping[str, str]:
        """Of an adapter that exists already, by file."""
        try:
            return file_hashes(adapter_directory(arm, adapter.persona, self._directory))
        except (ExperimentError, ModelError):
            if known := self._known.of(adapter.name):
                return known
            raise

    def readout(self, scoring: Scoring) -> str | None:
        """Of what completions are marked by; None without a file. A judge's may come later."""
        if scoring.file is None:
            return None
        path, known = self._directory / scoring.file, self._known.data.get("readout")
        if scoring.terms.asks != "source" and not path.is_file():
            return known
        return _sha256(path, known, f"scoring.function: no file {path}")


def _sha256(path: Path, known: str | None, missing: str) -> str:
    """Hash of a file, or what is known of it where it is not; `missing` says that it is needed."""
    if path.is_file():
        return file_sha256(path)
    if known is None:
        raise ExperimentError(missing)
    return known
