#!/usr/bin/env python3
"""Measures what a feed bundle costs: wall time, CPU time and peak memory, beside `bzip2 -dc` of the same bytes.

Called by `make bench`; see docs/performance.md. Standard library only. Needs the release build of the workspace.
Prints a Markdown table; with BENCH_WRITE=1 it also goes between the markers in docs/performance.md.
Exits with 1 where `vt load` takes more memory than it may, or where anything fails.
"""

# As few modules as can be: a child's peak memory counts from the fork on, so that less than this process has
# cannot be seen.
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from scripts import machine, median, write

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
RELEASE = Path(os.environ.get("RELEASE_DIR") or TARGET / "release").resolve()
VT, SIM = RELEASE / "vt", RELEASE / "sim"
MB = 1 << 20
BUNDLE_BYTES = 100 * MB
LOAD_LIMIT = 150 * MB
MINUTE = "202601020304"


def run(arguments, env=None):
    """Runs a command to its end, its output thrown away: (wall s, CPU s, peak bytes)."""
    started = time.monotonic()
    with open(os.devnull, "wb") as null:
        child = subprocess.Popen([str(a) for a in arguments], env=env, stdin=null, stdout=null)
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"bench: {arguments[0]} ended with {child.returncode}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def make_bundle(path):
    """The seeded bundle, made again where the generator is newer."""
    if path.exists() and path.stat().st_mtime > SIM.stat().st_mtime:
        return path
    print(f"bench: making {path}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending decides what `sim` writes.
    partial = path.with_name("partial-" + path.name)
    run([SIM, "feed", "--minute", MINUTE, "--target-bytes", BUNDLE_BYTES, "--output", partial])
    partial.rename(path)
    return path


# What rules look like, with gaps for words and numbers: as in testdata/select_rules/example.
RULES = [
    "attributes.last_analysis_results|@iany:{words}",
    "attributes.crowdsourced_yara_results.#.rule_name|@iany:{words}",
    'attributes.type_tags.#(=="office");attributes.tags|@any:{words}',
    "attributes.type_tag|@any:peexe,pedll;attributes.last_analysis_stats.malicious|@gt:{n}0;attributes.names|@iany:{words}",
    "attributes.pe_info.sections.#(entropy>7.5)#|#|@gt:{n}",
    "attributes.last_analysis_stats.timeout|@gt:{n}",
    "attributes.times_submitted|@eq:{n};attributes.size|@lt:{n}000000;attributes.meaningful_name|@icontains:{words}",
    "attributes.popular_threat_classification.suggested_threat_label|@iany:{words}",
]


def make_rules(folder, count=200):
    """So many rules, the same each time: few match, as few are meant to."""
    seed = 7

    def number(below):
        nonlocal seed
        seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (seed >> 33) % below

    def word():
        return "".join("bdfgklmnprstvz"[number(14)] + "aeiou"[number(5)] for _ in range(2 + number(3)))

    rules = []
    for at in range(count):
        rule = RULES[at % len(RULES)].format(n=1 + number(6), words=",".join(word() for _ in range(5)))
        rules.append(f"- rule_{at}:\n    syntax: gjson\n    rule: '{rule}'\n    daily_quota: 10\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "many.yaml").write_text("".join(rules))
    return folder


def fetch(url):
    """What a URL answers with, got by a process of its own: see the imports."""
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"
    return json.loads(subprocess.run([sys.executable, "-c", code, url], check=True, capture_output=True).stdout)


@contextmanager
def stand_ins(*arguments):
    """Stand-ins that are processes of their own, and a state that is empty: URLs and the environment for `vt`."""
    state = TARGET / "bench/state"
    shutil.rmtree(state, ignore_errors=True)
    with subprocess.Popen([SIM, "serve", *map(str, arguments)], stdout=subprocess.PIPE, text=True) as sim:
        try:
            urls = json.loads(sim.stdout.readline())
            yield urls, {
                "VIRUSTOTAL": urls["virustotal"],
                "VIRUSTOTAL_APIKEY": "0123456789abcdef" * 4,
                "PLUGIN_EVENTS_URL": urls["dispatcher"],
                "PLUGIN_DATA_URL": urls["dispatcher"],
                "STATEDIR": str(state),
                "RULES_ROOT": str(ROOT / "testdata/select_rules/example"),
                "LOG": "warn",
            }
        finally:
            sim.terminate()
    shutil.rmtree(state)


def load(bundle, records):
    """`vt load` of one minute."""
    with stand_ins("--bundle", bundle) as (urls, env):
        used = run([VT, "load", "--from", MINUTE, "--to", MINUTE], env)
        arrived = fetch(urls["dispatcher"] + "/sim/summary")["binaries"]
    if arrived != records:
        sys.exit(f"bench: {arrived} of {records} records arrived")
    return used


def cases(compressed, plain, records):
    """What is measured, as (name, function of nothing), and the names of what cannot be. The first that can be is what
    the others are compared with."""
    to_map = [VT, "map", "--format", "avro", "--max-age-hours", "-1"]
    wanted = [("`bzip2 -dc`", ["bzip2", "-dc", compressed])]
    wanted += [(f"`lbzip2 -dc -n{n}`", ["lbzip2", "-dc", f"-n{n}", compressed]) for n in (1, 2)]
    for name, file in (("`vt map`", compressed), ("`vt map` of plain lines", plain)):
        for n, threads in ((1, "1 thread"), (2, "2 threads")):
            wanted.append((f"{name}, {threads}", [*to_map, "--threads", n, file]))
    rules = make_rules(TARGET / "bench/rules")
    wanted.append(("`vt select` of plain lines by 200 rules, 1 thread", [VT, "select", "--rules", rules, "--threads", 1, plain]))
    found, absent = [], []
    for name, command in wanted:
        if shutil.which(command[0]):
            found.append((name, lambda command=command: run(command)))
        else:
            absent.append(name)
    found.append(("`vt load` of that minute", lambda: load(compressed, records)))
    return found, absent


def table(results, floor):
    """Medians, and how they compare with the first row's. Memory under the floor cannot be told from it."""
    rows = ["| | wall, s | × | CPU, s | × | peak memory, MB |", "|---|---:|---:|---:|---:|---:|"]
    _, base_wall, base_cpu, _ = results[0]
    for name, wall, cpu, peak in results:
        memory = f"{peak / MB:.0f}" if peak > floor else f"≤ {floor / MB:.0f}"
        rows.append(f"| {name} | {wall:.2f} | {wall / base_wall:.2f} | {cpu:.2f} | {cpu / base_cpu:.2f} | {memory} |")
    return "\n".join(rows)


def count(lines):
    """How many lines a file has, line by line: this process must stay small, see `floor`."""
    with lines.open("rb") as file:
        return sum(1 for _ in file)


def in_turn(script, cases, rounds):
    """What each of the cases, (name, function of nothing), gave in all rounds, by name."""
    samples = {name: [] for name, _ in cases}
    for at in range(rounds):
        for name, measure in cases:
            print(f"{script}: round {at + 1} of {rounds}: {name}", file=sys.stderr)
            samples[name].append(measure())
    return samples


def main():
    rounds = int(os.environ.get("BENCH_RUNS") or 5)
    compressed = make_bundle(TARGET / "bench/feed.json.bz2")
    plain = make_bundle(TARGET / "bench/feed.jsonl")
    records = count(plain)
    measured, absent = cases(compressed, plain, records)
    floor = run(["true"])[2] + MB
    samples = in_turn("bench", measured, rounds)
    results = [(name, *map(median, zip(*samples[name]))) for name, _ in measured]
    # The worst run decides, not the median.
    worst = max(peak for _, _, peak in samples[measured[-1][0]])
    sizes = f"{plain.stat().st_size / MB:.0f} MB in {records} records, {compressed.stat().st_size / MB:.1f} MB as bzip2"
    text = [f"Medians of {rounds} runs in turn over one synthetic bundle ({sizes}) on {machine()}; "
            f"× is against {results[0][0]}.", "", table(results, floor)]
    # It neither waits for a disk nor has a second thread, so that it waits for other processes alone.
    _, wall, cpu, _ = results[0]
    if wall > 1.1 * cpu:
        text += ["", f"Other work was going on: {results[0][0]} had {cpu / wall:.0%} of a core. Wall times are too long, and "
                 "CPU times somewhat."]
    if absent:
        text += ["", f"Not installed, so not measured: {', '.join(absent)}."]
    text = "\n".join(text)
    print(text)
    if os.environ.get("BENCH_WRITE") == "1":
        write(text, "make bench", ROOT / "docs/performance.md")
    if worst > LOAD_LIMIT:
        sys.exit(f"bench: `vt load` took {worst / MB:.0f} MB at its peak; it may take {LOAD_LIMIT / MB:.0f}")
    print(f"bench: `vt load` took at most {worst / MB:.0f} of the {LOAD_LIMIT / MB:.0f} MB it may", file=sys.stderr)


if __name__ == "__main__":
    main()
