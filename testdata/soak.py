#!/usr/bin/env python3
"""A backlog of the feed through several processes of `vt load` on one table and one queue of the emulator of AWS, each
killed and started again at random moments all along, while VirusTotal answers 404, 429 and 503 for some minutes. At the
end every minute must be loaded or a listed gap, every event at the dispatcher, and the cursor at the head.

Called by `make soak`. Standard library only. Needs the built workspace and what `make aws` installs; leaves nothing
running. Set by SOAK_MINUTES (4320), SOAK_WORKERS (8), SOAK_RECORDS (8, of a minute) and SOAK_SEED (random: repeats
the moments, as far as the machine does). With BENCH_WRITE=1 the figures go between the markers in docs/performance.md.
"""

import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from scripts import exports, write

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "debug"
VT, SIM = BIN / "vt", BIN / "sim"
MINUTES = int(os.environ.get("SOAK_MINUTES") or 4320)
WORKERS = int(os.environ.get("SOAK_WORKERS") or 8)
RECORDS = int(os.environ.get("SOAK_RECORDS") or 8)
SEED = int(os.environ.get("SOAK_SEED") or time.time_ns())
# Seconds that a process lives, at least and at most: it takes about one of them to start.
LIFE = (3, 30)
# Nothing takes so many seconds in which the cursor does not move.
STUCK = 600
SMALL = ["--small", "--records", str(RECORDS)]


def minute(second):
    return datetime.datetime.fromtimestamp(second, datetime.timezone.utc).strftime("%Y%m%d%H%M")


def second(text):
    return int(datetime.datetime.strptime(text + "+0000", "%Y%m%d%H%M%z").timestamp())


class Stage:
    """The stand-ins, and a new table, bucket and queue, for a backlog of so many minutes that ends an hour ago."""

    def __init__(self, count, folder):
        self.folder, self.running = folder, []
        # Minutes that become due while it runs belong to the feed too.
        self.first = int(time.time()) // 60 * 60 - 3600 - 60 * (count - 1)
        all_minutes = [minute(self.first + 60 * n) for n in range(count)]
        self.missing = set(all_minutes[5::97])
        faults = ["--missing", *sorted(self.missing)]
        faults += ["--throttled", *all_minutes[7::53], "--broken", *all_minutes[11::41]]
        urls = json.loads(self.start([SIM, "serve", *SMALL, *faults]).stdout.readline())
        self.dispatcher = urls["dispatcher"]
        aws = self.start([SIM, "aws"])
        # The last line says where it keeps its state.
        lines = iter(aws.stdout.readline, "")
        found = []
        for line in lines:
            found.append(line)
            if line.startswith("emulator_home"):
                break
        self.env = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "RUST_BACKTRACE")},
            **exports(found),
            "VIRUSTOTAL": urls["virustotal"],
            "VIRUSTOTAL_APIKEY": "0123456789abcdef" * 4,
            "PLUGIN_EVENTS_URL": self.dispatcher,
            "RULES_ROOT": str(ROOT / "testdata/select_rules/example"),
            "DISPATCHER_MAX_AGE_HOURS": "-1",
            "LOG": "warn",
        }
        made = self.vt("aws", "init")
        self.env.update(exports(made.splitlines()))

    def start(self, arguments):
        child = subprocess.Popen([str(a) for a in arguments], stdout=subprocess.PIPE, text=True)
        self.running.append(child)
        return child

    def vt(self, *arguments):
        """What a command prints, as a process with a state directory of its own."""
        env = {**self.env, "STATEDIR": str(self.state("look"))}
        return subprocess.run([VT, *arguments], env=env, check=True, capture_output=True, text=True).stdout

    def state(self, name):
        """A process's own directory; the Go plugin's last minute in it says where the feed begins."""
        there = self.folder / name
        there.mkdir(parents=True, exist_ok=True)
        (there / "v3_files").write_text(str(self.first - 60))
        return there

    def load(self, number, log):
        env = {**self.env, "STATEDIR": str(self.state(f"worker-{number}"))}
        command = [VT, "load", "--watch", "--workers", "1"]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log)

    def status(self):
        return json.loads(self.vt("status", "--json"))

    def arrived(self):
        with urllib.request.urlopen(self.dispatcher + "/sim/keys", timeout=120) as answer:
            return set(json.load(answer))

    def end(self):
        for child in self.running:
            child.terminate()
            child.wait()


def run(count, workers, killed, folder):
    """Loads a backlog; gives seconds and kills."""
    stage = Stage(count, folder)
    log = (folder / "log").open("w")
    try:
        dice = random.Random(SEED)
        head = minute(stage.first + 60 * (count - 1))
        begun = time.monotonic()
        life = lambda: time.monotonic() + dice.uniform(*LIFE)
        processes = [[stage.load(n, log), life()] for n in range(workers)]
        kills, look, moved, cursor = 0, begun, begun, None
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            for number, (process, until) in enumerate(processes):
                if process.poll() is not None:
                    sys.exit(f"soak: a process ended by itself with {process.returncode}: {folder / 'log'}")
                if killed and now >= until:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    kills += 1
                    processes[number] = [stage.load(number, log), life()]
            if now < look:
                continue
            status, look = stage.status(), time.monotonic() + (5 if killed else 1)
            totals = status["totals"]
            if status["cursor"] != cursor:
                cursor, moved = status["cursor"], now
            print(f"soak: {now - begun:4.0f} s: {totals['loaded']} loaded, {totals['planned']} planned, "
                  f"{totals['loading']} loading, {totals['gaps']} gaps, cursor {cursor}, {kills} kills",
                  file=sys.stderr, flush=True)
            if cursor and cursor >= head:
                break
            if now - moved > STUCK:
                sys.exit(f"soak: the cursor is stuck at {cursor}: {folder / 'log'}")
        seconds = time.monotonic() - begun
        for process, _ in processes:
            process.terminate()
        for process, _ in processes:
            process.wait()
        check(stage, count)
        return seconds, kills
    finally:
        log.close()
        for process, _ in locals().get("processes", []):
            if process.poll() is None:
                process.kill()
                process.wait()
        stage.end()


def check(stage, count):
    """Every minute up to the cursor is loaded or a listed gap, and exactly the events of the loaded ones arrived."""
    status = stage.status()
    totals = status["totals"]
    last = second(status["cursor"])
    minutes = [minute(at) for at in range(stage.first, last + 60, 60)]
    gaps = {row["minute"]: row for row in status["gaps"]}
    wrong = [m for m in gaps if m not in stage.missing]
    assert not wrong, f"gaps that VirusTotal has: {wrong}"
    assert set(gaps) == stage.missing, f"missing minutes that are no gaps: {stage.missing - set(gaps)}"
    assert all(row["state"]["reason"] for row in gaps.values()), "a gap without its reason"
    assert totals["buried"] == 0, f"{totals['buried']} minutes were given up"
    # Near the head a process may have been told to end in the middle of the newest one.
    beyond = totals["planned"] + totals["loading"]
    assert totals["loaded"] + len(gaps) + beyond >= len(minutes) >= count, totals
    loaded = [m for m in minutes if m not in gaps]
    newest = [minute(last + 60 * n) for n in range(1, 60)]

    def hashes(of):
        command = [str(SIM), "expected", *SMALL, *of]
        return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    expected, arrived = hashes(loaded), stage.arrived()
    lost, others = expected - arrived, arrived - expected - hashes(newest)
    assert not lost, f"{len(lost)} of {len(expected)} files did not arrive"
    assert not others, f"{len(others)} files arrived that are none of the feed's"
    print(f"soak: {len(minutes)} minutes: {len(loaded)} loaded, {len(gaps)} listed gaps; all {len(expected)} files "
          f"arrived; cursor {status['cursor']}", file=sys.stderr)


def main():
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: asked to end"))
    print(f"soak: SOAK_SEED={SEED}", file=sys.stderr)
    # It stays where anything fails: the processes' log is in it.
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "killed").mkdir()
    (folder / "alone").mkdir()
    seconds, kills = run(MINUTES, WORKERS, True, folder / "killed")
    few = max(MINUTES // 8, 60)
    alone, _ = run(few, 1, False, folder / "alone")
    shutil.rmtree(folder)
    rows = ["| | minutes | time, s | minutes a second |", "|---|---:|---:|---:|",
            f"| {WORKERS} processes, killed {kills} times | {MINUTES} | {seconds:.0f} | {MINUTES / seconds:.1f} |",
            f"| 1 process, never killed | {few} | {alone:.0f} | {few / alone:.1f} |"]
    text = f"Minutes of {RECORDS} small records, the stand-ins and the emulator on the same {os.cpu_count()} cores:\n\n"
    text += "\n".join(rows)
    print(text)
    if os.environ.get("BENCH_WRITE") == "1":
        write(text, "make soak", ROOT / "docs/performance.md")


main()
