"""The exit code is the one that was earned, whatever becomes of standard output."""

import errno
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from steerproof import cli
from steerproof.run.commands.session import to_go_on
from tests.run.tiny import run_tiny

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
STATUS = [sys.executable, "-m", "steerproof", "status"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("output") / "run"
    run_tiny(place)
    return place


def test_a_reader_that_stops_early_is_no_error(run: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run(
            [*STATUS, str(run)], check=False, stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("words", [["{run}"], ["--help"]])
def test_a_full_disk_behind_standard_output_is_one_line_and_its_code(
    run: Path, words: list[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    typed = [*STATUS, *(word.format(run=run) for word in words)]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            typed, check=False, stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED
        )
    assert ran.returncode == 6
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("words", ["{run}", "--help", "nowhere"])
def test_full_disks_behind_both_streams_change_no_exit_code(run: Path, words: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    typed = [*STATUS, words.format(run=run)]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(typed, check=False, stdout=full, stderr=full, env=BUFFERED)
    assert ran.returncode == (2 if words == "nowhere" else 6)


def test_a_closed_standard_output_changes_no_exit_code(run: Path) -> None:
    words = " ".join([*STATUS, str(run)])
    ran = subprocess.run(
        ["/bin/sh", "-c", f"{words} >&-"], check=False, stderr=subprocess.PIPE, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr


def test_json_of_a_status_holds_the_units_by_name(run: Path) -> None:
    ran = subprocess.run([*STATUS, str(run), "--json"], check=True, capture_output=True, text=True)
    assert '"state": "finished"' in ran.stdout
    assert '"unit": "cell/' in ran.stdout or '"unit": "analysis/all"' in ran.stdout


def test_no_file_takes_the_number_of_a_stream_that_was_closed(tmp_path: Path) -> None:
    code = (
        "import sys; from steerproof.cli.output import fill_streams; fill_streams();"
        " file = open(sys.argv[1], 'w'); print('lost'); print(file.fileno(), file=file)"
    )
    ran = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, code, tmp_path / "n"],
        check=False,
    )
    assert ran.returncode == 0
    assert int((tmp_path / "n").read_text()) > 2


def test_the_version_is_said_to_nobody_without_a_standard_output() -> None:
    words = f"{sys.executable} -m steerproof --version >&-"
    ran = subprocess.run(["/bin/sh", "-c", words], check=False, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


LATE = """
import os, signal, time
from steerproof import cli
from steerproof.run.commands.session import to_go_on

class Late:
    def __del__(self, kill=os.kill, me=os.getpid()):
        kill(me, {second})  # when Python has given the signals back their own meaning

late = Late()
cli.app = lambda: (os.kill(os.getpid(), {first}), time.sleep(5))
cli.main()
"""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_while_the_program_ends_changes_no_exit_code(second: int) -> None:
    code = LATE.format(first=int(signal.SIGTERM), second=int(second))
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.count("\n")) == (130, 1), ran.stderr


ENDING = """
import atexit, os, signal
from steerproof import cli
from steerproof.run.commands.session import to_go_on

cli.app = lambda: atexit.register(os.kill, os.getpid(), signal.SIGTERM)
cli.main()
"""


def test_a_signal_among_what_runs_at_exit_ends_without_a_word() -> None:
    ran = subprocess.run([sys.executable, "-c", ENDING], check=False, capture_output=True)
    assert (ran.returncode, ran.stderr) == (130, b"")


IGNORED = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from steerproof import cli
from steerproof.run.commands.session import to_go_on
from steerproof.run.driver.signals import stop_on_signals

def app():
    os.kill(os.getpid(), signal.SIGHUP)
    with stop_on_signals() as stopping:
        os.kill(os.getpid(), signal.SIGHUP)
        sys.exit(int(stopping.is_set()))

cli.app = app
cli.main()
"""


def test_what_nohup_ignores_stays_ignored() -> None:
    ran = subprocess.run([sys.executable, "-c", IGNORED], check=False, capture_output=True)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (OSError(errno.EMFILE, "Too many open files", "x"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 6),
        (MemoryError(), 3),
        (RuntimeError("can't start new thread"), 3),
    ],
)
def test_what_the_machine_refuses_is_one_line_and_a_code(
    error: Exception,
    exit_code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_answer_signals", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == exit_code
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_of_ours_is_not_called_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_answer_signals", lambda _: None)
    with pytest.raises(RuntimeError, match="a mistake"):
        cli.main()


def test_a_path_that_begins_with_a_dash_is_typed_as_one() -> None:
    assert to_go_on(Path("-run"), "--dir", Path("b c")) == "steerproof run ./-run --dir 'b c'"


EARLY = """
import os, signal, sys

class Late:
    def find_spec(self, name, *_):
        if name == "steerproof.cli":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Late())
import steerproof.command
"""


def test_a_signal_while_the_command_is_imported_ends_it_without_a_word() -> None:
    ran = subprocess.run([sys.executable, "-c", EARLY], check=False, capture_output=True)
    assert (ran.returncode, ran.stderr) == (130, b"")
    told = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert told["project"]["scripts"] == {"steerproof": "steerproof.command:main"}
