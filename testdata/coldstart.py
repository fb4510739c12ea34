#!/usr/bin/env python3
"""Measures what a function's cold start costs before its first event: the time from its start to its first request
for an event, and its memory then.

Called by `make coldstart`; standard library only. Takes the directory that `make package` fills. This process is the
Lambda service (its Runtime API, on loopback): it starts each function's `bootstrap` COLDSTART_RUNS times (15) in an empty environment
and takes the medians. The state is in STATEDIR, then on AWS, which is not reached: nobody is asked anything
before the first event. Prints a Markdown table; with BENCH_WRITE=1 it also goes between the markers in docs/performance.md.
Exits with 1 where a function takes more memory than it may, or a zip is larger; on time, which depends on the
machine and on what else it does, only where COLDSTART_LIMIT_MS says how much is too much.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts import machine, median, write

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ["load", "ingest", "query", "download", "hunt"]
MB = 1 << 20
RSS_LIMIT = 25 * MB
ZIP_LIMIT = 8 * MB
# Long for a start.
PATIENCE = 30

# Nobody listens there.
NOWHERE = "http://127.0.0.1:9"
SETTINGS = {
    "VIRUSTOTAL_APIKEY": "0123456789abcdef" * 4,
    "PLUGIN_EVENTS_URL": NOWHERE,
    "PLUGIN_DATA_URL": NOWHERE,
    "LOOKUP_SOURCES": "incidents",
    "RULES_ROOT": str(ROOT / "testdata/select_rules/example"),
    "LOG": "warn",
}
QUEUES = ["INBOX_QUEUE_URL", "DOWNLOAD_QUEUE_URL", "MINUTES_QUEUE_URL"]
ON_AWS = {
    "STATE_TABLE": "azul-vt",
    "BUNDLE_BUCKET": "azul-vt-bundles",
    **dict.fromkeys(QUEUES, f"{NOWHERE}/000000000000/azul-vt"),
    # What Lambda itself sets.
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_SESSION_TOKEN": "none",
}


def fail(why):
    sys.exit(f"coldstart: {why}")


def memory(pid):
    """What a process has in memory now, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    fail("the function ended as it asked for its first event")


def start(program, service, settings, state):
    """Starts a function, and ends it when it asks for its first event: (ms, bytes)."""
    host, port = service.getsockname()
    environment = settings | {
        "STATEDIR": f"{state}/{program.parent.name}",
        "AWS_LAMBDA_RUNTIME_API": f"{host}:{port}",
        "AWS_LAMBDA_FUNCTION_NAME": program.parent.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_LOG_GROUP_NAME": "here",
        "AWS_LAMBDA_LOG_STREAM_NAME": "here",
    }
    with open(f"{state}/log", "wb") as log:
        begun = time.monotonic()
        child = subprocess.Popen([program], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        connection, _ = service.accept()
        with connection:
            connection.settimeout(PATIENCE)
            asked = connection.recv(1 << 16)
            took = time.monotonic() - begun
            resident = memory(child.pid)
    except TimeoutError:
        fail(f"{program} asks for no event: {Path(state, 'log').read_text()[-2000:]}")
    finally:
        child.kill()
        child.wait()
    if not asked.startswith(b"GET /2018-06-01/runtime/invocation/next "):
        fail(f"{program} began with another request: {asked[:80]!r}")
    return took * 1000, resident


def main(packages):
    rounds = int(os.environ.get("COLDSTART_RUNS") or 15)
    too_slow = float(os.environ.get("COLDSTART_LIMIT_MS") or "inf")
    states = [SETTINGS, SETTINGS | ON_AWS]
    programs = [Path(packages).resolve() / name / "bootstrap" for name in FUNCTIONS]
    for program in programs:
        if not program.exists():
            fail(f"{program} is not there: run make package")
    samples = {}
    with (
        socket.create_server(("127.0.0.1", 0)) as service,
        tempfile.TemporaryDirectory(prefix="azul-vt-coldstart-") as state,
    ):
        service.settimeout(PATIENCE)
        # In turn, so that a disturbance hits all alike; the first round only fills the caches and makes the state.
        for at in range(rounds + 1):
            for program in programs:
                for which, settings in enumerate(states):
                    sample = start(program, service, settings, state)
                    if at:
                        samples.setdefault((program, which), []).append(sample)
    rows = [
        "| | zip, MB | start, ms | memory, MB | start, state on AWS, ms | memory, state on AWS, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    wrong = []
    for program in programs:
        name = program.parent.name
        size = program.parent.with_suffix(".zip").stat().st_size
        row = [f"`{name}`", f"{size / MB:.2f}"]
        if size > ZIP_LIMIT:
            wrong.append(f"the zip of {name} has {size / MB:.2f} MB, it may have {ZIP_LIMIT / MB:.0f}")
        for which in range(len(states)):
            took, resident = (median(values) for values in zip(*samples[program, which]))
            row += [f"{took:.1f}", f"{resident / MB:.1f}"]
            if resident > RSS_LIMIT:
                wrong.append(f"{name} takes {resident / MB:.1f} MB, it may take {RSS_LIMIT / MB:.0f}")
            if took > too_slow:
                wrong.append(f"{name} takes {took:.1f} ms to start, not {too_slow:g}")
        rows.append(f"| {' | '.join(row)} |")
    text = f"Medians of {rounds} starts in turn on {machine()}:\n\n" + "\n".join(rows)
    print(text)
    if os.environ.get("BENCH_WRITE") == "1":
        write(text, "make coldstart", ROOT / "docs/performance.md")
    if wrong:
        fail("; ".join(wrong))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        fail("say where the packages are")
    main(sys.argv[1])
