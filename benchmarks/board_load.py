"""How many requests a board answers: 50 clients over 300 run directories, for half a minute.

    python benchmarks/board_load.py --dir DIRECTORY

Each client asks for one page after the other over a connection of its own: the list, the table, an
experiment, a cell, a figure, a CSV file, of a run drawn at random; twenty more follow the list.
Clients and server share the machine. Prints one JSON object: requests a second, and for each kind
the median and the 95th percentile in milliseconds.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.board import rig

KINDS = {
    "list": "/",
    "table": "/table",
    "experiment": "/experiments/{number}",
    "cell": "/experiments/{number}/cells/A.poet.neutral.centroid.L1.c%3D%2B2",
    "figure": "/experiments/{number}/figures/ranking.svg",
    "csv": "/experiments/{number}/cells/A.poet.neutral.centroid.L1.c%3D%2B2/completions.csv",
}
FOLLOWERS = 20


def make_runs(place: Path, count: int) -> None:
    """`count` judged runs: ten of their own, the others copies of these."""
    for number in range(count):
        own = place / f"run-{number % 10:03d}"
        if number < 10:
            rig.finished_run(own, rig.tiny_experiment(title=f"Run {number}", seed=number))
        else:
            shutil.copytree(own, place / f"run-{number:03d}")


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(port: int, over: Connection, at: str) -> int:
    """One GET over an open connection; the status."""
    reader, writer = over
    writer.write(f"GET {at} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    if "content-length:" in head:
        await reader.readexactly(int(head.partition("content-length:")[2].partition("\r")[0]))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split(" ", 2)[1])


async def client(port: int, seed: int, runs: int, end: float, found: list) -> None:
    """Ask until the time is over; append kind, seconds and status of each."""
    draw = random.Random(seed)
    over = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        kind = draw.choice(list(KINDS))
        began = time.monotonic()
        address = KINDS[kind].format(number=draw.randint(1, runs))
        status = await ask(port, over, address)
        found.append((kind, time.monotonic() - began, status))
    over[1].close()


async def follow(port: int, end: float) -> None:
    """An open page of the list: an event stream that is read and never answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    while time.monotonic() < end:
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                await reader.read(4096)
        except TimeoutError:
            break
    writer.close()


async def load(port: int, asked: argparse.Namespace) -> list[tuple[str, float, int]]:
    """All clients at once."""
    found: list[tuple[str, float, int]] = []
    end = time.monotonic() + asked.seconds
    followers = [follow(port, end) for _ in range(FOLLOWERS)]
    visitors = [client(port, seed, asked.runs, end, found) for seed in range(asked.clients)]
    await asyncio.gather(*followers, *visitors)
    return found


def measure(asked: argparse.Namespace) -> dict[str, object]:
    """Make the runs, start the server, send the clients."""
    runs = asked.dir / "runs"
    if not runs.exists():
        runs.mkdir(parents=True)
        make_runs(runs, asked.runs)
    words = ["board", str(runs), "--port", "0", "--board-dir", str(asked.dir / "board")]
    server = subprocess.Popen(
        [sys.executable, "-m", "steerproof", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        line = server.stdout.readline() if server.stdout else ""
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        asyncio.run(load(port, argparse.Namespace(**vars(asked) | {"seconds": 1.0, "clients": 1})))
        found = asyncio.run(load(port, asked))
        memory = psutil.Process(server.pid).memory_info().rss
    finally:
        server.terminate()
        server.wait()
    return {
        "runs": asked.runs,
        "clients": asked.clients,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "requests": len(found),
        "refused_or_broken": sum(status != 200 for _, _, status in found),
        "requests_a_second": round(len(found) / asked.seconds, 1),
        "milliseconds": {kind: _spread([t for k, t, _ in found if k == kind]) for kind in KINDS},
        "server_megabytes": memory // 1_000_000,
    }


def _spread(seconds: list[float]) -> dict[str, int]:
    """Median and 95th percentile, in milliseconds."""
    order = sorted(seconds) or [0.0]
    return {
        "median": round(1000 * order[len(order) // 2]),
        "p95": round(1000 * order[int(len(order) * 0.95)]),
    }


def main() -> None:
    """Read the arguments, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    sys.stdout.write(json.dumps(measure(parser.parse_args()), indent=1) + "\n")


if __name__ == "__main__":
    main()
