"""Triton kernels without a GPU: code that runs them interpreted."""

import subprocess
import sys


def interpreted(code, monkeypatch):
    """Run code in a process of its own: Triton reads the variable when a kernel is defined."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
