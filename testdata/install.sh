#!/bin/sh
# Makes a virtual environment of Python in $1 with what the file $2 lists, no more (packages' own dependencies
# are listed too); what follows are options for pip. What is there already is used again, without a network.
# Where it cannot be had this says so and ends well: what needs it says that it is missing, tests skip; in CI it
# fails.
set -eu
there=$1
wanted=$2
shift 2
if cmp -s "$wanted" "$there/installed.txt"; then exit 0; fi

cannot() {
    echo "what $wanted lists is not installed, so what needs it cannot run: $1" >&2
    test "${CI:-}" != true
    exit
}

command -v python3 >/dev/null || cannot "install python3"
rm -rf "$there"
# Debian keeps ensurepip in a package of its own; a pip from elsewhere does as well.
if python3 -m venv "$there" >/dev/null 2>&1; then
    pip="$there/bin/python -m pip"
elif python3 -m venv --without-pip "$there" && python3 -m pip --version >/dev/null 2>&1; then
    pip="python3 -m pip --python $there/bin/python"
else
    cannot "install python3-venv (or pip) and run make again"
fi
$pip install --quiet --disable-pip-version-check --no-deps "$@" --requirement "$wanted" \
    || cannot "pip could not install it"
cp "$wanted" "$there/installed.txt"
