"""``python -m tests.bench.compare REVISION``: this tree's server beside an earlier one's, in turn, in one run.

The earlier revision is checked out into a folder of its own and measured twice in each round, so that the spread of old
against old says what a difference is worth. Both use this environment; the costs are CPU time of the server process.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

from tests.bench.report import table

ROOT: Final = Path(__file__).parents[2]
EXPERIMENTS: Final = ("fanout", "inbound")
ROUNDS: Final = 7
_ROW: Final = re.compile(r"\| (?:(?P<event>[^|]+?) +\| )?messaging-exporter +\| (?P<cost>[\d.]+) ")

Costs = dict[str, float]


def measure(tree: Path) -> Costs:
    """One short round of a tree's own bench: microseconds of CPU by what was measured."""
    command = [sys.executable, "-m", "tests.bench", *EXPERIMENTS, "--only", "messaging", "--sizes", "100"]
    done = subprocess.run(
        [*command, "--rounds", "1", "--no-durable"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    costs: Costs = {}
    section = ""
    for line in done.stdout.splitlines():
        if line.startswith("### "):
            section = line.removeprefix("### ").strip()
        elif row := _ROW.match(line):
            costs[": ".join(filter(None, (section, row["event"])))] = float(row["cost"])
    if not costs:
        raise SystemExit(f"the bench of {tree} measured nothing:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return costs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare", description=__doc__.split("\n")[0])
    parser.add_argument("revision", help="what to compare with, such as v0.1.0")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", old, given.revision], cwd=ROOT, check=True)
        try:
            for number in range(given.rounds):
                for name, tree in (("old", old), ("old again", old), ("new", ROOT)):
                    for what, cost in measure(tree).items():
                        found[what][name].append(cost)
                print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)
    rows = []
    slower = False
    for what, costs in found.items():
        if len(costs) < 3:  # measured in one of the two only
            continue
        before, again, after = (statistics.median(costs[name]) for name in ("old", "old again", "new"))
        noise = max(abs(first - second) / first for first, second in zip(costs["old"], costs["old again"], strict=True))
        slower |= after / min(before, again) - 1 > noise
        rows.append([what, f"{before:.2f}", f"{again:.2f}", f"{after:.2f}", f"{after / before:.2f}", f"{noise:.0%}"])
    head = ["CPU per event, µs (medians)", given.revision, "again", "this tree", "ratio", "spread of old against old"]
    print(table(head, rows))
    return int(slower)


sys.exit(main())
