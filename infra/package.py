#!/usr/bin/env python3
"""Packs the functions for Lambda. The same programs give the same bytes, whenever and wherever they are packed.

Called by `make package`, after the build: takes the directory that cargo-lambda puts programs in, and the architecture
(`x86_64` or `arm64`). Writes `<name>.zip` beside each `<name>/bootstrap`, and `SHA256SUMS` (see `sha256sum --check`).
Standard library only. Exits with 1 where a program is not one that Lambda can start, or a zip is too large.
"""

import hashlib
import shutil
import struct
import sys
import zipfile
from pathlib import Path

FUNCTIONS = ["load", "ingest", "query", "download", "hunt"]
MB = 1 << 20
ZIP_LIMIT = 8 * MB
# What the runtime provided.al2023 has; all else is linked in.
GLIBC = (2, 34)
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
MACHINES = {"x86_64": 62, "arm64": 183}
# Numbers of the ELF format.
DYNAMIC, VERSIONS_NEEDED, NEEDED = 6, 0x6FFFFFFE, 1


def fail(why):
    sys.exit(f"package: {why}")


class Elf:
    """What is read of a 64-bit little-endian program: nothing that needs a tool."""

    def __init__(self, data):
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("it is no 64-bit program of Linux")
        self.data = data
        (self.machine,) = struct.unpack_from("<H", data, 18)
        (at,) = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        # Type, offset, size and link of each section.
        self.sections = [struct.unpack_from("<4xI16xQQI", data, at + n * size) for n in range(count)]

    def text(self, section, at):
        start = self.sections[section][1] + at
        return self.data[start : self.data.index(b"\0", start)].decode()

    def libraries(self):
        """The shared libraries that it names."""
        for kind, offset, size, link in self.sections:
            if kind == DYNAMIC:
                for tag, value in struct.iter_unpack("<qQ", self.data[offset : offset + size]):
                    if tag == NEEDED:
                        yield self.text(link, value)

    def versions(self):
        """The versions of these libraries' interfaces that it needs, such as `GLIBC_2.34`."""
        for kind, library, _, link in self.sections:
            while kind == VERSIONS_NEEDED:
                _, count, _, first, onwards = struct.unpack_from("<HHIII", self.data, library)
                version = library + first
                for _ in range(count):
                    name, next_version = struct.unpack_from("<8xII", self.data, version)
                    yield self.text(link, name)
                    version += next_version
                library += onwards
                if not onwards:
                    break


def check(name, data, architecture):
    """Says why Lambda could not start the program; gives the C library that it needs."""
    try:
        elf = Elf(data)
    except ValueError as why:
        fail(f"{name}: {why}")
    if elf.machine != MACHINES[architecture]:
        fail(f"{name} is not built for {architecture}")
    strangers = set(elf.libraries()) - LIBRARIES
    if strangers:
        fail(f"{name} needs {', '.join(sorted(strangers))}, which Lambda does not have: link it statically")
    glibc = [version.removeprefix("GLIBC_") for version in elf.versions() if version.startswith("GLIBC_2")]
    newest = max(tuple(map(int, version.split("."))) for version in glibc)
    if newest > GLIBC:
        fail(f"{name} needs glibc {newest[0]}.{newest[1]}, Lambda has {GLIBC[0]}.{GLIBC[1]}: "
             "build on a system that is as old, such as Debian 12")
    return f"{newest[0]}.{newest[1]}"


def pack(path, data):
    """A zip of nothing but a `bootstrap` that may be run, from the year 1980, of nobody."""
    entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, data, compresslevel=9)


def main(into, architecture):
    if architecture not in MACHINES:
        fail(f"ARCH={architecture}: write one of {', '.join(MACHINES)}")
    into = Path(into)
    # cargo-lambda takes each program of the workspace for a function.
    for other in into.glob("*/bootstrap"):
        if other.parent.name not in FUNCTIONS:
            shutil.rmtree(other.parent)
    sums, too_large = [], []
    print(f"{'':<10}{'program, MB':>12}{'zip, MB':>9}{'glibc':>7}")
    for name in FUNCTIONS:
        program, archive = into / name / "bootstrap", into / f"{name}.zip"
        if not program.exists():
            fail(f"{program} is not there: was it built?")
        data = program.read_bytes()
        glibc = check(name, data, architecture)
        pack(archive, data)
        size = archive.stat().st_size
        print(f"{name:<10}{len(data) / MB:>12.1f}{size / MB:>9.2f}{glibc:>7}")
        if size > ZIP_LIMIT:
            too_large.append(name)
        for path in (program, archive):
            sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(into)}\n")
    (into / "SHA256SUMS").write_text("".join(sums))
    if too_large:
        fail(f"larger than {ZIP_LIMIT / MB:.0f} MB: {', '.join(too_large)}")
    print(f"They are in {into}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        fail("say where the programs are, and for which architecture")
    main(*sys.argv[1:])
