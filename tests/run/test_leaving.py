"""The end of a command whose libraries are large: all that was promised for it happens, at once."""

import subprocess
import sys

import pytest

ENDING = """
import atexit, sys, threading, types
from steerproof.cli.leaving import leave

class Kept:
    def __del__(self):
        print("taken down")

kept = Kept()
atexit.register(print, "registered for the end")
{before}
print("printed")
try:
    sys.exit({code})
except SystemExit as ending:
    leave(ending.code)
    raise
"""
LARGE = "sys.modules['torch'] = types.ModuleType('torch')"
BUSY = f"{LARGE}; threading.Thread(target=threading.Event().wait, args=(0.2,)).start()"


def ended(before: str, code: str) -> tuple[int, list[str], str]:
    words = [sys.executable, "-c", ENDING.format(before=before, code=code)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout.splitlines(), ran.stderr


@pytest.mark.parametrize(("code", "ends"), [("", 0), ("None", 0), ("7", 7), ("130", 130)])
def test_a_large_command_ends_as_it_was_to_end_and_takes_nothing_down(code: str, ends: int) -> None:
    assert ended(LARGE, code) == (ends, ["printed", "registered for the end"], "")


@pytest.mark.parametrize(
    ("before", "code", "ends", "says"),
    [
        ("", "7", 7, ""),  # small: Python takes it down
        (BUSY, "0", 0, ""),  # a thread has something to do yet
        (LARGE, "'in words'", 1, "in words\n"),
    ],
)
def test_else_python_ends_it(before: str, code: str, ends: int, says: str) -> None:
    printed = ["printed", "registered for the end", "taken down"]
    assert ended(before, code) == (ends, printed, says)


def test_the_command_itself_ends_so() -> None:
    code = f"import sys, types; {LARGE}; sys.argv = ['steerproof', '--version']\n"
    code += "class Kept:\n    def __del__(self):\n        print('taken down')\n"
    code += "kept = Kept()\nfrom steerproof.command import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("steerproof ")
    assert "taken down" not in ran.stdout
