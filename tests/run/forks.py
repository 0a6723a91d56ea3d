"""Child processes that really die, at 5 ms each: a process that has imported everything forks them.

As a program it reads one JSON object per line (``run``, ``executor``, ``units``, ``environment``,
``file_limit``, ``kill_after``) and answers each with the exit status and standard error of a child
that ran the tiny experiment. `Forks` is the other end.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.run.tiny import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended: its exit code, or minus the signal that killed it; what it said."""

    code: int
    errors: str


class Forks:
    """The process that forks; children run one after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.run.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, run: Path, **request: Any) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"run": str(run), **request}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    for line in sys.stdin:
        print(json.dumps(child(json.loads(line))), flush=True)  # noqa: T201


def child(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if pid == 0:
            os.dup2(errors.fileno(), 2)
            os.environ.update(request.get("environment", {}))
            if "file_limit" in request:
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], hard))
            code = 1
            try:
                units = request.get("units", "tiny")
                code = main(Path(request["run"]), request.get("executor", "inline"), units)
            except BaseException as error:  # noqa: BLE001  a child never returns to the loop
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                sys.stderr.flush()
                os._exit(code)
        if "kill_after" in request:
            time.sleep(request["kill_after"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        errors.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "errors": errors.read().decode()}


if __name__ == "__main__":
    serve()
