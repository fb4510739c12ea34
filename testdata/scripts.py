"""What the scripts here share. As few modules as can be: see bench.py."""

import sys


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
