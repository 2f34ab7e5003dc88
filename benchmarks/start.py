"""How light a start is, and how light the pages are: processor time of commands, bytes of pages, and when Chromium has drawn them.

    python benchmarks/start.py                   the demo's run (made on first use, six minutes), and a page as of 7 billion parameters
    python benchmarks/start.py --run RUN         of another run

Processor time is that of the process, user and system, the least of several calls; Python's compiled files and the
kernels are there, as after an installation and a first call. Pages are drawn when two frames have passed after `load`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from generate import generate
from measure import DRIFTLINE, processor_seconds
from tables import Goal, goals

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

_DRAWN = """addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(() => {
  globalThis.drawn = performance.now();
})));"""
_SCROLLED = """const done = arguments[0], frames = [];
let before = performance.now();
function step() {
  const now = performance.now();
  frames.push(now - before);
  before = now;
  scrollBy(0, 400);
  if (scrollY + innerHeight < document.documentElement.scrollHeight - 1) requestAnimationFrame(step);
  else done([Math.max(...frames), frames.length]);
}
requestAnimationFrame(step);"""


def analyze(run: Path, out: Path) -> list[str]:
    return [*DRIFTLINE, "analyze", str(run), "--out", str(out), "--overwrite", "--quiet"]


def starts(run: Path, out: Path, repeats: int) -> list[Goal]:
    """Processor time of what starts most often; the page of `run` is left in `out`."""
    commands = {
        "`driftline analyze` of the demo's run": (analyze(run, out), 0.9),
        "`driftline inspect` of it": ([*DRIFTLINE, "inspect", str(run)], None),
        "`driftline --help`": ([*DRIFTLINE, "--help"], 0.15),
        "`import driftline`": ([sys.executable, "-c", "import driftline"], 0.05),
    }
    return [
        Goal(what, processor_seconds(command, repeats), most=most, unit="s")
        for what, (command, most) in commands.items()
    ]


def drawn(driver: Any, page: Path, repeats: int) -> tuple[float, float]:
    """Seconds until a page is drawn, and processor time of the thread that draws: the least of several."""
    from browser import show

    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    found = []
    for _ in range(repeats):
        show(driver, page, 1280)
        while not (at := driver.execute_script("return globalThis.drawn")):
            time.sleep(0.02)
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        (busy,) = (metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
        found.append((at / 1000, busy))
    clock, busy = zip(*found, strict=True)
    return min(clock), min(busy)


def pages(demo: Path, large: Path, repeats: int) -> list[Goal]:
    """Sizes of the two pages, and what Chromium takes to draw them and to scroll through the larger one."""
    from browser import CHROMIUM, DRIVER, chromium

    named = {"the demo's page": (demo, 2), "the page as of 7 billion parameters": (large, 3)}
    found = [Goal(what, page.stat().st_size / 1e6, most=most, unit="MB") for what, (page, most) in named.items()]
    if not (CHROMIUM and DRIVER):
        print("Chromium is not here: no page is drawn")
        return found
    with chromium() as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _DRAWN})
        for what, (page, _) in named.items():
            clock, busy = drawn(driver, page, repeats)
            found.append(Goal(f"{what}, drawn", clock, most=1, unit="s"))
            found.append(Goal("the processor time of that", busy, unit="s"))
        longest, frames = driver.execute_async_script(_SCROLLED)
    print(f"scrolled from top to bottom in {frames} frames")
    return [*found, Goal("its longest frame while it scrolls", longest / 1000, most=0.1, unit="s")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--run", type=Path, help="default the demo's, in --data")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="write the record that RESULTS.md is rendered from")
    arguments = parser.parse_args()
    run = arguments.run or arguments.data / "demo" / "run"
    if not run.exists():
        subprocess.run([*DRIFTLINE, "demo", "--out", str(run.parent)], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        demo, large, wide = (Path(scratch) / name for name in ("demo", "large", "wide"))
        subprocess.run(analyze(run, demo), check=True, stdout=subprocess.DEVNULL)  # compiles the kernels once
        aimed = starts(run, demo, arguments.repeats)
        generate(
            wide, 2e6, 20, layers=32, vocabulary=1000
        )  # 32 layers, 386 tensors: a page does not know how wide they are
        subprocess.run(analyze(wide, large), check=True, stdout=subprocess.DEVNULL)
        aimed += pages(demo / "report.html", large / "report.html", arguments.repeats)
    goals("python benchmarks/start.py", aimed).show("start", keep=arguments.keep)


if __name__ == "__main__":
    main()
