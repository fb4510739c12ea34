#!/usr/bin/env python3
"""Measures `vt load` of an hour's backlog, with a dispatcher that answers at once and with one that takes 100 ms a post,
beside `vt map` of the same bundles.

Called by `make backlog`; see docs/performance.md. Standard library only. Needs the release build of the workspace.
Each minute has the same seeded bundle, and the dispatcher counts events without reading them. Prints a Markdown table;
with BENCH_WRITE=1 it also goes between the markers in docs/performance.md. Exits with 1 where a figure is over its limit.
"""

import json
import os
import subprocess
import sys
import urllib.request

from bench import MB, ROOT, TARGET, VT, count, in_turn, make_bundle, run, stand_ins
from scripts import machine, median, write

MINUTES = int(os.environ.get("BACKLOG_MINUTES") or 60)
LATENCY_MS = 100
# Of the CPU time that mapping takes, and of the wall time without latency.
MOST_CPU, MOST_WALL = 1.3, 1.2


def fetch(url, body=None):
    with urllib.request.urlopen(url, body, timeout=60) as answer:
        return json.load(answer)


def load(bundle, records, latency_ms):
    """`vt load` of all minutes: (wall s, CPU s, peak bytes)."""
    with stand_ins("--sink", "--bundle", bundle) as (urls, env):
        dispatcher = urls["dispatcher"]
        if latency_ms:
            fault = {"kind": "delay", "ms": latency_ms, "times": 10_000_000}
            fetch(dispatcher + "/sim/fault", json.dumps(fault).encode())
        # The first run starts a backlog back and goes up to the newest minute.
        lag = 168 * 60 - MINUTES
        env |= {"FEED_BACKLOG_HOURS": "168", "FEED_LAG_MINUTES": str(lag), "DISPATCHER_MAX_AGE_HOURS": "-1"}
        used = run([VT, "load"], env)
        status = subprocess.run([VT, "status", "--json"], env=env, check=True, capture_output=True).stdout
        loaded = json.loads(status)["totals"]["loaded"]
        sunk = fetch(dispatcher + "/sim/summary")["sunk"]
    # Another minute may begin meanwhile.
    if not MINUTES - 1 <= loaded <= MINUTES + 2 or sunk != loaded * records:
        sys.exit(f"backlog: {loaded} minutes and {sunk} events, not {MINUTES} of {records} each")
    return tuple(figure * MINUTES / loaded for figure in used[:2]) + used[2:]


def main():
    rounds = int(os.environ.get("BENCH_RUNS") or 5)
    bundle = make_bundle(TARGET / "bench/feed.json.bz2")
    records = count(make_bundle(TARGET / "bench/feed.jsonl"))
    to_map = [VT, "map", "--format", "avro", "--max-age-hours", "-1", "--threads"]

    def mapped(threads):
        wall, cpu, peak = run([*to_map, threads, bundle])
        return wall * MINUTES, cpu * MINUTES, peak

    cases = [
        (f"`vt map` of one, 1 thread, × {MINUTES}", lambda: mapped(1)),
        (f"`vt map` of one, 2 threads, × {MINUTES}", lambda: mapped(2)),
        ("`vt load`, a dispatcher that answers at once", lambda: load(bundle, records, 0)),
        (f"`vt load`, a dispatcher that takes {LATENCY_MS} ms a post", lambda: load(bundle, records, LATENCY_MS)),
    ]
    samples = in_turn("backlog", cases, rounds)
    results = [(name, *map(median, zip(*samples[name]))) for name, _ in cases]
    (_, _, base, _), _, (_, at_once, cpu, _), (_, slow, _, _) = results
    rows = ["| | wall, s | CPU, s | × | peak memory, MB |", "|---|---:|---:|---:|---:|"]
    rows += [f"| {name} | {w:.1f} | {c:.1f} | {c / base:.2f} | {p / MB:.0f} |" for name, w, c, p in results]
    size = f"{MINUTES} minutes of {records} records, {bundle.stat().st_size / MB:.1f} MB each"
    text = "\n".join([
        f"Medians of {rounds} runs in turn, {size}, on {machine()}; × is CPU time against the first row's. The stand-ins ran "
        "on the same cores.", "", *rows, "", f"With {LATENCY_MS} ms a post the wall time is {slow / at_once:.2f} × that without.",
    ])
    print(text)
    if os.environ.get("BENCH_WRITE") == "1":
        write(text, "make backlog", ROOT / "docs/performance.md")
    over = [what for what, figure, most in (("CPU time", cpu / base, MOST_CPU), ("wall time", slow / at_once, MOST_WALL))
            if figure > most]
    if over:
        sys.exit(f"backlog: {' and '.join(over)} over the limit ({MOST_CPU} × and {MOST_WALL} ×)")


if __name__ == "__main__":
    main()
