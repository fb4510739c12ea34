#!/bin/sh
# Makes a virtual environment with the emulator of AWS in $1. What is there already is used again, without
# a network. Where it cannot be had this says so and ends well: the tests that need it skip and say why;
# in CI they fail.
set -eu
there=$1
wanted=$(dirname "$0")/requirements.txt
if cmp -s "$wanted" "$there/installed.txt"; then exit 0; fi

cannot() {
    echo "no emulator of AWS, so its tests will skip: $1" >&2
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
$pip install --quiet --disable-pip-version-check --requirement "$wanted" \
    || cannot "pip could not install what $wanted lists"
cp "$wanted" "$there/installed.txt"
