"""How soon a page is painted: a board over 200 run directories, one of them with 100,000 texts.

    python benchmarks/board.py --dir DIRECTORY

Runs the real server and a headless Chromium, and prints one JSON object: milliseconds to the first
contentful paint of each page, first visit and second, and the largest memory of the server.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright

from steerproof.spec.experiment import Generation
from tests.board import rig
from tests.board.conftest import FLAGS, chromium

PAINT = """() => new Promise(found => new PerformanceObserver((list, observer) => {
  observer.disconnect();
  found(list.getEntriesByName('first-contentful-paint')[0].startTime);
}).observe({type: 'paint', buffered: true}))"""
PORT = 8799


def make_runs(place: Path, count: int) -> str:
    """`count` judged runs, the last with 100,000 completions; returns the name of one big cell."""
    small = rig.finished_run(place / "run-000", rig.tiny_experiment())
    for number in range(1, count - 1):
        shutil.copytree(small, place / f"run-{number:03d}")
    questions = rig.tiny_experiment().questions.model_copy(
        update={"evaluation": tuple(f"What is thing {i}?" for i in range(50))}
    )
    big = rig.tiny_experiment(
        title="One hundred thousand completions",
        questions=questions,
        generation=Generation(samples=100, max_new_tokens=64),
    )
    rig.finished_run(place / "run-big", big)
    return next(iter(sorted(p.name for p in (place / "run-big/units/cell").iterdir()))).rpartition(
        "-"
    )[0]


def paint(browser: Browser, address: str) -> float:
    """Milliseconds from asking for a page to its first contentful paint, in a fresh context."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    found = page.evaluate(PAINT)
    context.close()
    return round(found)


def measure(place: Path, count: int) -> dict[str, object]:
    """Make the runs, start the server, look at the pages."""
    runs = place / "runs"
    runs.mkdir(parents=True)
    cell = make_runs(runs, count)
    words = ["board", str(runs), "--port", str(PORT), "--board-dir", str(place / "board")]
    server = subprocess.Popen(
        [sys.executable, "-m", "steerproof", *words], stdout=subprocess.PIPE, text=True
    )
    here = f"http://127.0.0.1:{PORT}"
    try:
        if server.stdout is None or here not in server.stdout.readline():
            raise SystemExit("the board did not start")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
            first = paint(browser, here + "/")
            page = browser.new_page()
            page.goto(here + "/")
            link = page.get_by_role("link", name="One hundred thousand").get_attribute("href")
            addresses = {"experiment": f"{here}{link}", "cell": f"{here}{link}/cells/{cell}"}
            visits = {"all experiments": [first, paint(browser, here + "/")]} | {
                name: [paint(browser, at), paint(browser, at)] for name, at in addresses.items()
            }
            browser.close()
        memory = psutil.Process(server.pid).memory_info().rss
    finally:
        server.terminate()
        server.wait()
    return {
        "runs": count,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "first_paint_milliseconds": visits,
        "server_megabytes": memory // 1_000_000,
    }


def main() -> None:
    """Read the arguments, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=200)
    asked = parser.parse_args()
    began = time.perf_counter()
    numbers = measure(asked.dir, asked.runs)
    numbers["seconds_in_all"] = round(time.perf_counter() - began)
    sys.stdout.write(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
