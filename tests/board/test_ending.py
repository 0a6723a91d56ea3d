"""A board ends when it is told to, whatever its pages are being made of."""

import os
import signal
import socket
import subprocess
import sys
import time

SLOW = """
import sys, time
from starlette.routing import Route
from steerproof.board import app, server
from steerproof.cli import main

def slow(request):
    print("asked", flush=True)
    time.sleep(30)

pages = app._reading()
app._reading = lambda: [Route("/slow", slow), *pages]
server._PATIENCE = 1
sys.argv = ["steerproof", "board", "runs", "--port", "0"]
main()
"""


def test_a_page_that_takes_long_keeps_no_board_from_ending(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=tmp_path, text=True, env={**os.environ, "HOME": "."},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as board:  # fmt: skip
        assert board.stdout
        assert board.stderr
        port = int(board.stdout.readline().partition("127.0.0.1:")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"GET /slow HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            while board.stdout.readline() != "asked\n":
                pass
            began = time.monotonic()
            board.send_signal(signal.SIGTERM)
            assert board.wait(20) == 0
            assert time.monotonic() - began < 10
        assert "Traceback" not in board.stderr.read()
