"""What the scripts here share. As few modules as can be: see bench.py."""

import os
import sys
from pathlib import Path


def exports(lines):
    """The variables of lines for a shell, `export NAME=value` or `NAME='value'`."""
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines if "=" in line)
    return {name: value.strip().strip("'") for name, value in pairs}


def write(text, maker, *documents):
    """Puts a text between the markers that name its maker."""
    begin, end = (f"<!-- {what} of what `{maker}` writes -->" for what in ("begin", "end"))
    for path in documents:
        before, _, rest = path.read_text().partition(begin + "\n")
        _, found, after = rest.partition(end)
        if not found:
            sys.exit(f"{maker}: {path.name} lacks the markers")
        path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def machine():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    system = os.uname()
    return f"{os.cpu_count()} cores of {models[0] if models else system.machine}, {system.sysname}"


def median(values):
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
