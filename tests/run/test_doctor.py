import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from steerproof.errors import MachineError, ModelError
from steerproof.run.commands import doctor as module
from steerproof.run.commands.doctor import MachineCheck, Needs, doctor
from steerproof.run.store import hold as lock


def checks(directory: Path, **needs: int) -> dict[str, MachineCheck]:
    return {check.name: check for check in doctor(directory, Needs(**needs))}


def test_a_fit_machine_has_no_failure_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = checks(tmp_path / "run")
    assert [check for check in found.values() if check.level == "fail"] == []
    assert found["kernel lock"].value == "a second process is refused"
    assert found["rename and fsync"].value == "works"
    assert found["sqlite"].value.endswith("write-ahead log")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("needs", "name"),
    [({"disk": 1 << 60}, "disk"), ({"memory": 1 << 60}, "memory"), ({"gpus": 99}, "gpus")],
)
def test_what_the_plan_needs_and_the_machine_lacks_is_a_failure_with_a_remedy(
    needs: dict[str, int], name: str, tmp_path: Path
) -> None:
    check = checks(tmp_path, **needs)[name]
    assert check.level == "fail"
    assert check.remedy


def test_tokens_are_named_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_words")
    found = checks(tmp_path)
    assert found["HF_TOKEN"].value == "set"
    assert "hf_secret_words" not in repr(found)
    monkeypatch.delenv("HF_TOKEN")
    assert checks(tmp_path)["HF_TOKEN"].value == "not set"


def test_a_filesystem_without_kernel_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
    check = checks(tmp_path)["kernel lock"]
    assert check.level == "warn"
    assert "--steal" in check.remedy


def test_a_directory_that_cannot_be_written_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise MachineError(f"cannot write {path}")

    monkeypatch.setattr(module, "make_directory", refuse)
    check = checks(tmp_path)["directory"]
    assert check.level == "fail"
    assert "cannot write" in check.value


def no_template() -> str:
    raise ModelError("the tokenizer has no chat template")


@pytest.mark.parametrize(
    ("probe", "level", "value"),
    [
        (lambda: "qwen2, 8 blocks", "ok", "qwen2, 8 blocks"),
        (no_template, "fail", "the tokenizer has no chat template"),
    ],
)
def test_the_model_is_tried_by_whoever_knows_how(
    probe: Callable[[], str], level: str, value: str, tmp_path: Path
) -> None:
    check = doctor(tmp_path, model=probe)[-1]
    assert (check.name, check.level, check.value) == ("model", level, value)


def test_gpus_are_those_that_the_driver_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        if command[0] == "nvidia-smi":
            return SimpleNamespace(returncode=0, stdout="NVIDIA A, 79 GiB\nNVIDIA B, 80 GiB\n")
        return real(command, **options)

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    assert checks(tmp_path, gpus=2)["gpus"] == MachineCheck(
        name="gpus", level="ok", value="2: NVIDIA A, 79 GiB; NVIDIA B, 80 GiB"
    )
