#!/usr/bin/env python3
"""Counts the instructions that a small bundle costs and compares them with testdata/budget.json.

Called by `make budget`; standard library only. Needs the release build of the workspace and valgrind (of the system);
without that it says so and ends well. Instructions are the same on a busy machine, which times are not: this guards
against what makes the work slower without anybody noticing. Exits with 1 where something takes more than its budget by
a twentieth; where it takes much less, it says that the budget is to be renewed: BUDGET_WRITE=1.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench import SIM, TARGET, VT, make_rules, run

BUDGET = Path(__file__).resolve().parent / "budget.json"
BYTES = 4 << 20
MINUTE = "202601020304"
# More than the differences between two runs: keys of hash tables are seeded anew each time.
TOLERANCE = 0.05


def instructions(arguments):
    """How many instructions a command takes."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode != 0 or found is None:
        sys.exit(f"budget: {arguments[0]}: {done.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def main():
    if shutil.which("valgrind") is None:
        print("budget: skipped, because valgrind is not installed")
        return
    folder = TARGET / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    bundle, plain = folder / "small.json.bz2", folder / "small.jsonl"
    for file in (bundle, plain):
        run([SIM, "feed", "--minute", MINUTE, "--target-bytes", BYTES, "--output", file])
    to_map = [VT, "map", "--format", "avro", "--max-age-hours", "-1", "--threads", 1]
    counted = {
        "vt map of a bundle": instructions([*to_map, bundle]),
        "vt map of plain lines": instructions([*to_map, plain]),
        "vt select of plain lines by 200 rules":
            instructions([VT, "select", "--threads", 1, "--rules", make_rules(folder / "rules"), plain]),
    }
    if os.environ.get("BUDGET_WRITE") == "1":
        BUDGET.write_text(json.dumps(counted, indent=2) + "\n")
    allowed = json.loads(BUDGET.read_text())
    over = False
    for name, count in counted.items():
        share = count / allowed[name]
        print(f"budget: {name}: {count / 1e6:.0f} million instructions, {share:.1%} of the budget")
        over |= share > 1 + TOLERANCE
        if share < 1 - 2 * TOLERANCE:
            print(f"budget: {name} got faster: BUDGET_WRITE=1 make budget renews the budget")
    if over:
        sys.exit("budget: more than testdata/budget.json allows")


if __name__ == "__main__":
    main()
